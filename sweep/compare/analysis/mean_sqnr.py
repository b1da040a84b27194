"""Mean SQNR of the quantized sites of cells, with its error: the proxy that ranks where no cost is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sweep.compare.analysis.cost import NAN, Estimate, ask
from sweep.compare.analysis.per_site import points, read, shared_places
from sweep.compare.analysis.significance import Floats, freedom, jackknife
from sweep.compare.query.comparison import Comparison
from sweep.compare.query.database import REPLICATES
from sweep.quantization.sites import quantized


def known_sqnr(runs: Comparison) -> dict[int, float]:
    """Mean SQNR of the deployed sites, dB, by cell; not of cells where that of a place is unknown: minmax of groups is
    read off maxima. Sites that lose nothing, or hold nothing but zeros, do not count."""
    return dict(runs.sql("SELECT cell, mean FROM totals WHERE unknown = 0 AND mean IS NOT NULL"))


def shared_mean(runs: Comparison, cells: Sequence[int]) -> dict[int, float]:
    """Mean SQNR of cells over the quantized places where it is finite in all of them, dB, lest a cell be judged by
    other layers; empty where they share no such place. The totals tell, where all is finite; else the rows do."""
    numbers = ", ".join(map(str, cells))
    totals = runs.sql(f"SELECT grid, places = finite AND places > 0, cell, mean FROM totals WHERE cell IN ({numbers})")
    if len({grid for grid, *_ in totals}) == 1 and all(whole for _, whole, *_ in totals):
        means = {cell: mean for *_, cell, mean in totals}
        return {n: means[n] for n in cells if n in means}
    known, _, table = shared_places(points(runs, cells), cells, runs.sites)
    return dict(zip(known, table.mean(1).tolist(), strict=True)) if table.size else {}


def mean_sqnr(runs: Comparison, cells: list[int]) -> dict[int, Estimate]:
    """Mean SQNR of the quantized sites, dB, by cell, with its jackknife error over folds if replicates tell one: that
    of the places where it is finite whichever fold is left out, since means of other places differ by more."""
    means = known_sqnr(runs)
    query = (
        "SELECT cell, list(mean ORDER BY fold) FROM (SELECT cell, fold, avg(sqnr_db ORDER BY sqnr_db) AS mean FROM ("
        "FROM {} QUALIFY bool_and(coalesce(isfinite(sqnr_db), false)) OVER (PARTITION BY cell, layer, site)) GROUP BY "
        "cell, fold) GROUP BY cell"
    )
    known = [n for n in cells if n in means]
    plain = [n for n in known if runs.listed[n].granularity == "tensor"]
    folds = {cell: np.array(each) for cell, each in ask(runs, REPLICATES, plain, query)}
    folds |= _pooled(runs, [n for n in known if n not in plain])
    return {
        n: Estimate(means[n], float(jackknife(folds[n])) if n in folds else NAN, freedom(len(folds.get(n, ()))))
        for n in known
    }


def _pooled(runs: Comparison, cells: list[int]) -> dict[int, Floats]:
    """Mean SQNR of cells with groups without one fold, [K]: groups pooled, then averaged over quantized sites."""
    if not cells:
        return {}
    rounded = np.isin(runs.sites, quantized())
    replicates = {}
    for n, places in read(runs, cells).items():
        if places.sqnr_replicates is not None:
            counted = rounded[places.codes % len(runs.sites)] & np.isfinite(places.sqnr_replicates).all(1)
            if counted.any():
                replicates[n] = np.asarray(places.sqnr_replicates[counted].mean(0))
    return replicates
