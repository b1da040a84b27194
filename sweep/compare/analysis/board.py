"""The cells of a context in order, by the measure that ranks them, with their mean SQNR by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from sweep.compare.analysis.agreement import Agreement, kl_and_perplexity, with_sqnr
from sweep.compare.analysis.contexts import Context
from sweep.compare.analysis.cost import MEASURED, SQNR, Costs, Estimate
from sweep.compare.analysis.per_site import Places
from sweep.compare.analysis.significance import Floats
from sweep.quantization.sites import quantized


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
    def of(cls, places: Mapping[int, Places], cells: Sequence[int], sites: Sequence[str]) -> Means:
        """Of places that are finite in every one of the cells, lest a setting be judged by other layers. places: of
        these cells at least; cells that have none are left out. sites: in the order of the places' codes."""
        numbers = [n for n in cells if n in places]
        rounded = np.isin(np.asarray(sites), quantized())
        chosen = [places[n] for n in numbers]
        known = [p.codes[np.isfinite(p.sqnr) & rounded[p.codes % len(sites)]] for p in chosen]
        shared = reduce(_both, known) if known else np.zeros(0, np.int64)
        sqnr = np.array([p.sqnr[np.searchsorted(p.codes, shared)] for p in chosen])
        layer, start, weight = np.unique(shared // len(sites), return_index=True, return_counts=True)
        if not len(layer):
            return cls(numbers, layer, weight, np.zeros(0), np.zeros((len(numbers), 0)))
        best, table = (np.add.reduceat(x, start, axis=-1) / weight for x in (sqnr.max(0), sqnr))
        return cls(numbers, layer, weight, best, table)

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


def _both(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Codes that are in both; of cells of one model they mostly are the same."""
    return one if np.array_equal(one, other) else np.intersect1d(one, other, assume_unique=True)


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
