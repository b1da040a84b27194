"""The perplexity of evaluated cells against the baseline of their question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sweep.compare.analysis.contrasts import Contrast
from sweep.compare.analysis.significance import FAMILY, holm, p_values
from sweep.compare.query.comparison import Comparison

FEWEST = 8  # texts that an error is taken to be over where that is not known


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of one value of a knob and its difference to the baseline's.

    p: of the difference, corrected for all of the report; `se` and p are of these very scales on other text.
    texts: how many both cells read; `se` is then the error of the differences text by text. None where their
    scores are not at hand: `se` adds both errors as if they were independent, which is far too large."""

    value: str
    perplexity: float
    difference: float
    se: float
    kl: float | None
    texts: int | None
    p: float = float("nan")

    @property
    def beyond(self) -> bool:
        """True if the difference exceeds its error."""
        return self.p <= FAMILY


def perplexities(runs: Comparison, questions: Sequence[Contrast]) -> list[tuple[Perplexity, ...]]:
    """Differences of perplexity for every question, with p by Holm over all of them."""
    measured = [perplexity(runs, question) for question in questions]
    flat = [p for rows in measured for p in rows]
    if not flat:
        return measured
    raw = [
        p_values(np.array([p.difference]), np.array([p.se]), (p.texts or FEWEST) - 1)[0] if p.difference else np.nan
        for p in flat
    ]
    corrected = iter([replace(p, p=float(q)) for p, q in zip(flat, holm(np.array(raw)), strict=True)])
    return [tuple(next(corrected) for _ in rows) for rows in measured]


def perplexity(runs: Comparison, question: Contrast) -> tuple[Perplexity, ...]:
    """One entry per value that was evaluated on the baseline's text; empty unless there is another such cell."""
    first = runs.listed[question.cells[question.baseline]]
    base = first.evaluation
    if not base or base.get("perplexity") is None:
        return ()
    rows = []
    for value, number in zip(question.values, question.cells, strict=True):
        cell = runs.listed[number]
        here: dict[str, Any] | None = cell.evaluation
        if here and here.get("perplexity") is not None and _text(here) == _text(base):
            exact = paired(cell.path, first.path)
            error = ((base.get("perplexity_se") or 0.0) ** 2 + (here.get("perplexity_se") or 0.0) ** 2) ** 0.5
            difference = here["perplexity"] - base["perplexity"]
            rows.append(
                Perplexity(
                    value,
                    here["perplexity"],
                    difference,
                    exact[0] if exact else error,
                    here.get("kl"),
                    exact[1] if exact else None,
                )
            )
    return tuple(rows) if len(rows) > 1 else ()


def _text(evaluation: dict[str, Any]) -> str | None:
    return (evaluation.get("tokens") or {}).get("sha256")


def paired(cell: Path, base: Path) -> tuple[float, int] | None:
    """The error of the difference between two cells and how many texts it is over; None if that is unknown."""
    import pyarrow.parquet as pq  # here: most comparisons have no evaluated cell and need not wait for it

    from sweep.evaluation.scores import Scores

    scores = []
    for directory in (cell, base):
        if not (file := directory / "evaluation.parquet").is_file():
            return None
        scores.append(Scores.of(pq.read_table(file, filters=[("quantized", "=", "all")])))
    try:
        error = scores[0].against(scores[1])["delta_perplexity_se"]
    except ValueError:
        return None
    return (error, len(scores[0].tokens)) if error is not None else None
