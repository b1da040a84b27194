"""Standard errors of what a cell says of a place, told from its replicates, and what they do not tell apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import duckdb
import numpy as np
from numpy.typing import NDArray

from sweep.compare.analysis.per_site import read
from sweep.compare.analysis.significance import Floats, freedom, jackknife, paired_error, quantile
from sweep.compare.query.comparison import Comparison
from sweep.compare.query.database import REPLICATES

Place = tuple[int, int, str]  # cell, layer, site


def replicates(runs: Comparison, cells: Sequence[int], expression: str) -> dict[Place, Floats]:
    """What SQL's `expression` of the groups of a place says without one fold, [K], by place; empty where the cells
    have no replicates or not that column."""
    source = runs.source(REPLICATES, list(cells)) if cells else None
    if source is None:
        return {}
    query = (
        f"SELECT cell, layer, site, list(t ORDER BY fold) FROM (SELECT cell, layer, site, fold, {expression} AS t "
        f"FROM {source} GROUP BY ALL) GROUP BY ALL HAVING count(*) = count(t) AND count(*) > 1 "
        "ORDER BY cell, layer, site"
    )
    try:
        return {(cell, layer, site): np.array(values) for cell, layer, site, values in runs.sql(query)}
    except duckdb.BinderException:
        return {}


def errors(runs: Comparison, cells: Sequence[int], expression: str) -> dict[Place, float]:
    """The jackknife error of each of `replicates`."""
    return {place: float(jackknife(values)) for place, values in replicates(runs, cells, expression).items()}


def sqnr_replicates(runs: Comparison, cells: Sequence[int]) -> dict[Place, Floats]:
    """SQNR of a place without one fold, dB, [K]; groups pooled."""
    sites = runs.sites
    known: dict[Place, Floats] = {}
    for cell, places in read(runs, list(cells)).items():
        if places.sqnr_replicates is not None:
            at = zip(places.codes.tolist(), places.sqnr_replicates, strict=True)
            known |= {(cell, code // len(sites), sites[code % len(sites)]): values for code, values in at}
    return known


def layer_replicates(
    runs: Comparison, cells: Collection[int], codes: NDArray[np.int64]
) -> dict[tuple[int, int], Floats]:
    """Mean SQNR of the places of a layer without one fold, dB, [K], by cell and layer; not where it is not finite in
    every fold. codes: of the places, of which every cell has all, as `Places` has them."""
    layers = codes // len(runs.sites)
    means: dict[tuple[int, int], Floats] = {}
    for cell, places in read(runs, sorted(cells)).items():
        if places.sqnr_replicates is not None:
            here = places.sqnr_replicates[np.searchsorted(places.codes, codes)]
            of_cell = {(cell, int(layer)): here[layers == layer].mean(0) for layer in np.unique(layers)}
            means |= {place: mean for place, mean in of_cell.items() if np.isfinite(mean).all()}
    return means


def difference_error(firsts: Floats | None, others: Floats | None, paired: bool) -> float | None:
    """Standard error of a difference of two values, told from their replicates; None where either has none.

    paired: whether the replicates of both left out the same folds."""
    if firsts is None or others is None:
        return None
    error = paired_error(firsts, others) if paired else None
    return float(np.hypot(jackknife(firsts), jackknife(others))) if error is None else error


def unresolved(first: float, firsts: Floats | None, other: float, others: Floats | None, paired: bool) -> bool:
    """Whether noise may be all of the difference of two values: it is within the half-width of 95 % confidence. Without
    replicates nothing is told apart, and nothing marked. paired: as `difference_error` takes it."""
    error = difference_error(firsts, others, paired)
    if firsts is None or others is None or error is None:
        return False
    folds = min(len(firsts), len(others))
    return abs(other - first) <= quantile(0.95, freedom(folds)) * error
