"""Knobs of the harness rather than of a cell: they say what becomes of a result, never which one it is."""

from __future__ import annotations

import difflib
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from sweep.core.errors import UsageError

KNOBS = ("experiment", "objective", "overwrite")  # of conf/config.yaml; a cell's configuration is without them


def overwrite(composed: DictConfig) -> bool:
    """Whether a run may replace a finished one. Raises UsageError for what is neither true nor false."""
    if not isinstance(value := composed.get("overwrite", False), bool):
        raise UsageError(f"overwrite={value} must be true or false")
    return value


def objectives(composed: DictConfig) -> tuple[str, ...]:
    """The columns of the summary that a sweeper optimizes; empty without any."""
    value = composed.get("objective")
    names = [] if value is None else list(value) if isinstance(value, ListConfig) else [value]
    for name in names:
        if not isinstance(name, str):
            raise UsageError(f"objective={value} is no column of the summary, for example x_conv_out/sqnr_db_mean")
    return tuple(names)


def answer(directory: Path, names: tuple[str, ...]) -> float | list[float] | None:
    """What a job returns to its sweeper: those columns of a finished cell's summary, one as a number.

    Raises UsageError where the cell has no such column, or no finite number in it."""
    if not names:
        return None
    from sweep.runs.tracking import view

    summary = view.read(directory).summary
    found = []
    for name in names:
        value = summary.get(name)
        if not isinstance(value, (int, float)):
            numbers = [key for key, known in summary.items() if isinstance(known, (int, float))]
            close = difflib.get_close_matches(name, numbers, n=3, cutoff=0.3)
            raise UsageError(
                f"objective={name}: the cell's summary has no such number; the nearest are {', '.join(close)} "
                "(evaluation/… with evaluate.perplexity=true)"
            )
        found.append(float(value))
    return found[0] if len(found) == 1 else found


def override(key: str, value: str) -> str:
    """KEY='VALUE', as Hydra's grammar reads it."""
    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{quoted}'"
