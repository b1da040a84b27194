"""What an evaluated cell lost in perplexity, against the baseline of its question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sweep.compare.contrasts import Contrast
from sweep.compare.query import Comparison


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of one value of a knob and its difference to the baseline's. `se` adds both errors as if they
    were independent; the text is the same, so the true error of the difference is smaller."""

    value: str
    perplexity: float
    difference: float
    se: float
    kl: float | None


def perplexity(runs: Comparison, question: Contrast) -> tuple[Perplexity, ...]:
    """One entry per evaluated value; empty unless the baseline and another cell were evaluated."""
    base = runs.listed[question.cells[question.baseline]].evaluation
    if not base or base.get("perplexity") is None:
        return ()
    found = []
    for value, number in zip(question.values, question.cells, strict=True):
        here: dict[str, Any] | None = runs.listed[number].evaluation
        if here and here.get("perplexity") is not None:
            error = ((base.get("perplexity_se") or 0.0) ** 2 + (here.get("perplexity_se") or 0.0) ** 2) ** 0.5
            difference = here["perplexity"] - base["perplexity"]
            found.append(Perplexity(value, here["perplexity"], difference, error, here.get("kl")))
    return tuple(found) if len(found) > 1 else ()
