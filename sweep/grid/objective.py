"""The objective of a job for a sweeper that optimizes: columns of its cell's summary."""

from __future__ import annotations

import difflib
from pathlib import Path

from sweep.core.errors import UsageError
from sweep.runs.tracking import view


def answer(directory: Path, names: tuple[str, ...]) -> float | list[float] | None:
    """The named columns of a finished cell's summary; a single one as a number.

    Raises UsageError where the cell has no such column, or no finite number in it."""
    if not names:
        return None
    summary = view.read(directory).summary
    values = []
    for name in names:
        value = summary.get(name)
        if not isinstance(value, (int, float)):
            numbers = [key for key, known in summary.items() if isinstance(known, (int, float))]
            close = difflib.get_close_matches(name, numbers, n=3, cutoff=0.3)
            raise UsageError(
                f"objective={name}: the cell's summary has no such number; the nearest are {', '.join(close)} "
                "(evaluation/… with evaluate.perplexity=true)"
            )
        values.append(float(value))
    return values[0] if len(values) == 1 else values
