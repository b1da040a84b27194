"""The exception that a user can cause, and the words of it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UsageError(Exception):
    """A mistake in what was asked for: says what is wrong, where, what is allowed, and what to do.

    Entry points print it as one `error: …` line and exit with code 2, without a traceback.
    """


def allowed(key: str, value: object, choices: Iterable[str]) -> UsageError:
    """The error for a `value` of `key` that is not among `choices`; suggests the closest one."""
    options = list(choices)
    close = difflib.get_close_matches(str(value), options, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return UsageError(f"{key}={value} is unknown; allowed: {', '.join(options)}{hint}")


def first_line(error: BaseException) -> str:
    """The first line of a library's error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextmanager
def out_of_memory(advice: str) -> Iterator[None]:
    """Turns torch's errors for a lack of memory, on any device, into a UsageError that ends in `advice`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = first_line(error)
        if not isinstance(error, MemoryError) and "out of memory" not in text and "can't allocate memory" not in text:
            raise
        raise UsageError(f"out of memory ({text}); {advice}") from error
