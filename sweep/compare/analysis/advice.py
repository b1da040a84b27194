"""Advice on a setting: the ranked candidates."""

from __future__ import annotations

from dataclasses import dataclass

from sweep.compare.analysis.agreement import Agreement
from sweep.compare.analysis.cost import Estimate


@dataclass(frozen=True)
class Runner:
    """A setting, its mean SQNR, and its loss against the best setting's (dB, with its standard error or NaN).

    tied: what is lost, by the measure that ranks, is within its error, unknown, or below what matters.
    cost: in nats per token, None where SQNR ranks; more: than the best one's, None for the best and where its error
    was not asked for."""

    setting: str
    cell: int
    sqnr_db: float
    loss_db: float
    loss_se: float
    tied: bool
    cost: Estimate | None
    more: Estimate | None


@dataclass(frozen=True)
class Advice:
    """runners[0] is the recommended setting, by `kind`: measured KL, predicted loss or SQNR. agreement: how the cost
    ranks what SQNR ranks; perplexity: how perplexity ranks what measured KL ranks."""

    context: str
    kind: str
    runners: tuple[Runner, ...]
    agreement: Agreement | None
    perplexity: Agreement | None
    unranked: tuple[str, ...]  # settings whose SQNR is not known at every place where others' is

    @property
    def best(self) -> Runner:
        return self.runners[0]
