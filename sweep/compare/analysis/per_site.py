"""A cell's scales and SQNR with their replicates, place by place (layer and site), groups pooled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.compare.analysis.significance import Floats
from sweep.compare.query.comparison import Comparison
from sweep.compare.query.database import GROUPS, POOL, REPLICATES


@dataclass(frozen=True, eq=False)
class Places:
    """codes: int64 [n] ascending, layer and site in one; scale, sqnr: [n]; replicates: [n, K] or None."""

    codes: NDArray[np.int64]
    scale: Floats
    sqnr: Floats
    scale_replicates: Floats | None
    sqnr_replicates: Floats | None


def read(runs: Comparison, numbers: list[int], sites: list[str]) -> dict[int, Places]:
    """The places of every cell of `numbers`; sites: all names of sites, in the order of the codes."""
    chosen = f"cell IN ({', '.join(map(str, numbers))})"
    points = runs.arrays(
        f"SELECT cell, layer * {len(sites)} + list_position(?, site) - 1 AS code, scale, sqnr_db "
        f"FROM points WHERE {chosen} ORDER BY cell, code",
        [sites],
    )
    replicates = _replicates(runs, numbers, sites)
    cells = {}
    for number in numbers:
        mine = _span(points["cell"], number)
        codes = points["code"][mine].astype(np.int64)
        scale = sqnr = None
        if number in replicates:
            at, scale, sqnr = replicates[number]
            if not np.array_equal(at, codes):  # torn or filtered: no replicates rather than wrong ones
                scale = sqnr = None
        cells[number] = Places(codes, points["scale"][mine], points["sqnr_db"][mine], scale, sqnr)
    return cells


def _replicates(
    runs: Comparison, numbers: list[int], sites: list[str]
) -> dict[int, tuple[NDArray[np.int64], Floats, Floats]]:
    """cell → (codes [n], scale [n, K], sqnr [n, K]); groups pooled like the points they belong to."""
    replicates: dict[int, tuple[NDArray[np.int64], Floats, Floats]] = {}
    grouped = [n for n in numbers if runs.listed[n].granularity != "tensor"]
    plain = [n for n in numbers if runs.listed[n].granularity == "tensor"]
    code = f"layer * {len(sites)} + list_position(?, site) - 1 AS code"
    for kind in (plain, grouped):
        source = runs.source(REPLICATES, kind) if kind else None
        if source is None:
            continue
        if kind is plain:
            query = f"SELECT cell, {code}, fold, scale, sqnr_db FROM {source}"
        else:
            same = " AND ".join(f"r.{g} IS NOT DISTINCT FROM w.{g}" for g in GROUPS)
            query = (
                f"SELECT cell, {code}, fold, avg(r.scale) AS scale, "
                f"{POOL.replace('sqnr_db', 'r.sqnr_db')} AS sqnr_db "
                f"FROM {source} r JOIN weights w USING (cell, layer, site) WHERE {same} "
                "GROUP BY cell, layer, site, fold"
            )
        arrays = runs.arrays(f"{query} ORDER BY cell, code, fold", [sites])
        for number in kind:
            mine = _span(arrays["cell"], number)
            if mine.start == mine.stop:
                continue
            codes, counts = np.unique(arrays["code"][mine], return_counts=True)
            if len(set(counts)) != 1:
                continue
            shape = (len(codes), int(counts[0]))
            replicates[number] = (codes, arrays["scale"][mine].reshape(shape), arrays["sqnr_db"][mine].reshape(shape))
    return replicates


def _span(ascending: NDArray[np.int64], value: int) -> slice:
    wanted = np.array([value, value + 1], ascending.dtype)  # of another kind, all of `ascending` would be converted
    return slice(*np.searchsorted(ascending, wanted))
