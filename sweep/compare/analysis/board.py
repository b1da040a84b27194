"""The cells of a context in order, by the measure that ranks them, with their mean SQNR by layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.compare.analysis.agreement import Agreement, kl_and_perplexity, with_sqnr
from sweep.compare.analysis.contexts import Context
from sweep.compare.analysis.cost import MEASURED, SQNR, Costs, Estimate
from sweep.compare.analysis.significance import Floats
from sweep.compare.query.comparison import Arrays

# Only rows that are finite in every cell of a context count, lest a setting be judged by other layers.
BY_LAYER = """
WITH contexts(context, cell) AS (VALUES {contexts}),
sizes AS (SELECT context, count(*) AS cells FROM contexts GROUP BY context),
chosen AS (SELECT context, cell, layer, site, sqnr_db FROM deployed JOIN contexts USING (cell)
           WHERE isfinite(sqnr_db)),
shared AS (SELECT context, layer, site, max(sqnr_db) AS best FROM chosen JOIN sizes USING (context)
           GROUP BY context, layer, site, cells HAVING count(*) = cells)
SELECT context, cell, layer, avg(sqnr_db) AS sqnr, avg(best) AS best, count(*) AS weight
FROM chosen JOIN shared USING (context, layer, site) GROUP BY context, cell, layer ORDER BY context, cell, layer"""


@dataclass(frozen=True, eq=False)
class Means:
    """Mean SQNR of a context. cells: numbers, ascending. layer, weight (sites in it), best (mean over sites of
    the best setting's): [layer]; table: [cell, layer]."""

    cells: list[int]
    layer: NDArray[np.int64]
    weight: NDArray[np.int64]
    best: Floats
    table: Floats

    @classmethod
    def of(cls, rows: Arrays, context: int, cells: list[int]) -> Means:
        mine = rows["context"] == context
        shape = (len(cells), -1)
        first = {name: rows[name][mine].reshape(shape)[0] for name in ("layer", "weight", "best")}
        return cls(cells, **first, table=rows["sqnr"][mine].reshape(shape))

    @property
    def means(self) -> Floats:
        return np.asarray(np.average(self.table, axis=1, weights=self.weight))

    @property
    def of_cell(self) -> dict[int, float]:
        return dict(zip(self.cells, self.means.tolist(), strict=True))

    @property
    def ranked(self) -> list[int]:
        """Numbers of the cells, best first."""
        return [self.cells[i] for i in np.argsort(-self.means, kind="stable")]


@dataclass(frozen=True, eq=False)
class Board:
    """The cells of a context that are ranked, best first, see `Costs.ranked`. sqnr: mean dB, where known."""

    context: Context
    means: Means
    kind: str
    order: tuple[int, ...]
    sqnr: dict[int, float]
    costs: dict[int, Estimate]
    agreement: Agreement | None
    perplexity: Agreement | None

    @classmethod
    def of(cls, costs: Costs, context: Context, means: Means) -> Board:
        (kind, cells), sqnr = costs.ranked(context.cells), means.of_cell
        values = {n: costs.values(kind)[n] for n in cells} if kind != SQNR else {}
        order = sorted(values, key=lambda n: values[n].value) if values else means.ranked
        return cls(
            context,
            means,
            kind,
            tuple(order),
            sqnr,
            values,
            with_sqnr(costs, cells, sqnr),
            kl_and_perplexity(costs, cells) if kind == MEASURED else None,
        )

    @property
    def names(self) -> dict[int, str]:
        return dict(zip(self.context.cells, self.context.names, strict=True))
