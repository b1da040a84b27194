"""The cells of a context in order, by the measure that ranks them."""

from __future__ import annotations

from dataclasses import dataclass

from sweep.compare.analysis.agreement import Agreement, kl_and_perplexity, with_sqnr
from sweep.compare.analysis.contexts import Context
from sweep.compare.analysis.cost import MEASURED, SQNR, Costs, Estimate

SAME_DB = 9  # decimals of means that are compared: the last bits of one go with the order in which it was added up


@dataclass(frozen=True, eq=False)
class Board:
    """The cells of a context that are ranked, best first, see `Costs.ranked`. sqnr: mean dB over the
    places that all share, by cell; where known."""

    context: Context
    kind: str
    order: tuple[int, ...]
    sqnr: dict[int, float]
    costs: dict[int, Estimate]
    agreement: Agreement | None
    perplexity: Agreement | None

    @classmethod
    def of(cls, costs: Costs, context: Context, sqnr: dict[int, float]) -> Board:
        kind, cells = costs.ranked(context.cells)
        values = {n: costs.values(kind)[n] for n in cells} if kind != SQNR else {}
        by = {n: cost.value for n, cost in values.items()} or {n: -round(mean, SAME_DB) for n, mean in sqnr.items()}
        return cls(
            context,
            kind,
            tuple(sorted(by, key=lambda n: by[n])),
            sqnr,
            values,
            with_sqnr(costs, cells, sqnr),
            kl_and_perplexity(costs, cells) if kind == MEASURED else None,
        )

    @property
    def names(self) -> dict[int, str]:
        return dict(zip(self.context.cells, self.context.names, strict=True))
