"""A cell's scales and SQNR with their replicates, place by place (layer and site), groups pooled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from sweep.compare.analysis.significance import Floats
from sweep.compare.query.comparison import Comparison
from sweep.compare.query.database import GROUPS, POOL, REPLICATES
from sweep.quantization.sites import quantized


@dataclass(frozen=True, eq=False)
class Places:
    """codes: int64 [n] ascending, layer and site in one; scale, sqnr: [n]; replicates: [n, K] or None."""

    codes: NDArray[np.int64]
    scale: Floats
    sqnr: Floats
    scale_replicates: Floats | None
    sqnr_replicates: Floats | None


def points(runs: Comparison, numbers: Iterable[int]) -> dict[int, Places]:
    """The places of every cell of `numbers` that has any, without replicates; codes are those of `runs.sites`."""
    chosen = sorted(set(numbers))
    rows = runs.arrays(
        f"SELECT cell, layer * {len(runs.sites)} + list_position(?, site) - 1 AS code, scale, sqnr_db "
        f"FROM points WHERE cell IN ({', '.join(map(str, chosen))})",
        [runs.sites],
        chosen,
    )
    code = rows["code"].astype(np.int64)
    order = np.lexsort((code, rows["cell"]))
    cells, starts = np.unique(rows["cell"][order], return_index=True)
    codes, scales, sqnr = (np.split(column[order], starts[1:]) for column in (code, rows["scale"], rows["sqnr_db"]))
    return {n: Places(codes[i], scales[i], sqnr[i], None, None) for i, n in enumerate(cells.tolist())}


def shared_places(
    places: Mapping[int, Places], cells: Sequence[int], sites: Sequence[str]
) -> tuple[list[int], NDArray[np.int64], Floats]:
    """Those of the cells that have places, the codes of quantized ones whose SQNR is finite in all of them [n], and the
    SQNR there [cells, n]. places: of these cells at least. sites: in the order of the codes."""
    numbers = [n for n in cells if n in places]
    rounded, chosen = np.isin(np.asarray(sites), quantized()), [places[n] for n in numbers]
    finite = [p.codes[np.isfinite(p.sqnr) & rounded[p.codes % len(sites)]] for p in chosen]
    shared = reduce(_both, finite) if finite else np.zeros(0, np.int64)
    sqnr = [p.sqnr[np.searchsorted(p.codes, shared)] for p in chosen]
    return numbers, shared, np.array(sqnr).reshape(len(numbers), len(shared))


def _both(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Codes that are in both; of cells of one model they mostly are the same."""
    return one if np.array_equal(one, other) else np.intersect1d(one, other)


def read(runs: Comparison, numbers: list[int]) -> dict[int, Places]:
    """The places of every cell of `numbers`, with their replicates where the cell has them for these very places: torn
    or filtered, none rather than wrong ones."""
    cells, replicates = points(runs, numbers), _replicates(runs, numbers, runs.sites)
    nowhere = Places(np.zeros(0, np.int64), np.zeros(0), np.zeros(0), None, None)
    for number in numbers:
        here = cells.setdefault(number, nowhere)
        codes, scale, sqnr = replicates.get(number, (None, None, None))
        if codes is not None and np.array_equal(codes, here.codes):
            cells[number] = replace(here, scale_replicates=scale, sqnr_replicates=sqnr)
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
                f"SELECT cell, {code}, fold, avg(r.scale ORDER BY r.scale) AS scale, "
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
