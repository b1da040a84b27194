"""Values of knobs as they are meant: paths, choices, shares and numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sweep.core.errors import UsageError, allowed
from sweep.core.paths import expanded


def expand(group: Any, name: str, *keys: str) -> None:
    """Put home and variables into those knobs of a group that are paths. Raises UsageError."""
    for key in keys:
        if (path := getattr(group, key)) is not None:
            object.__setattr__(group, key, expanded(f"{name}.{key}", path))


def one_of(key: str, value: str, choices: Iterable[str]) -> str:
    """The choice that a value means, in any case. Raises UsageError for a value that is not among them."""
    for choice in choices:
        if choice.casefold() == value.casefold():
            return choice
    raise allowed(key, value, choices)


def fraction(key: str, value: Any, example: str, most: float | None = None) -> float:
    """0.01 of 0.01, "0.01" or "1%". Raises UsageError where it is no number, not above 0, above `most`, or 1 and more
    without that."""
    try:
        text = str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
        number = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        number = float("nan")
    if 0 < number < 1 or number == most:
        return tidy(number)
    raise UsageError(f"{key}={value} is no share between 0 and 1; for example {example}")


def tidy(alpha: float) -> float:
    """0.9400000000000001, as a range of Hydra's makes it, is 0.94."""
    return float(f"{alpha:.12g}")
