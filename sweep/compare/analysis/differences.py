"""The difference between two cells, layer by layer and site by site, with its error.

What is estimated is the effect of the setting on other text of the same source, calibrated anew: a replicate
takes other text and the scale that this text gives (see `sweep.quantization.replicates`), and its error covers both.

Where two cells share a calibration, their replicates are paired: fold k was left out of both, so what the text
of a fold does to both cancels in the difference, and the error of the difference is the jackknife of the
differences. Otherwise the errors are independent and add in quadrature; where the folds of either all say the
same (16-bit values are coarse), they tell no error, and no effect is called one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.compare.analysis.per_site import Places, read
from sweep.compare.analysis.significance import Floats, freedom, jackknife, p_values
from sweep.compare.query.comparison import Comparison
from sweep.compare.query.database import PRINT
from sweep.quantization.sites import quantized


@dataclass(frozen=True, eq=False)
class Differences:
    """Tests of one pair, float64 [n]. `layer` is -1 for a mean over layers, `site` is "all" for one over sites.

    scale: ln(other / baseline), sqnr: other - baseline in dB, each with its standard error (NaN if unknown)
    and two-sided p. p: what decides, the larger of both (the rows differ in both or not at all).
    """

    layer: NDArray[np.int64]
    site: NDArray[np.object_]
    scale: Floats
    scale_se: Floats
    scale_p: Floats
    sqnr: Floats
    sqnr_se: Floats
    sqnr_p: Floats
    p: Floats


@dataclass(frozen=True, eq=False)
class Evidence:
    """Differences of `other` to `baseline`. exact: not one bit of any scale or SQNR differs.

    rows: every layer and site. means: first, called "all", the mean over all rows whose site is quantized in a
    deployment (what enters SiLU never is: the convolution and SiLU are one kernel); then each site's mean
    over layers. Empty where the cells have no finite row in common."""

    baseline: int
    other: int
    paired: bool
    folds: int
    exact: bool
    rows: Differences
    means: Differences

    @property
    def blind(self) -> int:
        """Places whose scale differs while an SQNR is not known: minmax of groups is read off channel maxima."""
        rounded = np.isin(self.rows.site.astype(str), quantized())
        return int(((self.rows.scale != 0) & np.isnan(self.rows.sqnr) & rounded).sum())

    @property
    def overall(self) -> tuple[float, float]:
        """Mean SQNR difference over layers and quantized sites, dB, and its standard error; NaN if unknown at a place
        where the scale differs: a mean of some places is no mean."""
        if not len(self.means.site) or self.means.site[0] != "all" or self.blind:
            return float("nan"), float("nan")
        return float(self.means.sqnr[0]), float(self.means.sqnr_se[0])


def digests(runs: Comparison) -> dict[int, int]:
    """A fingerprint of every scale and SQNR of a cell, bit for bit: equal ones differ nowhere."""
    return dict(runs.sql("SELECT cell, print FROM totals"))


def agree(runs: Comparison, cells: Sequence[int]) -> bool:
    """True if the cells agree bit for bit at all sites that each of them has: one may have observed more."""
    numbers = ", ".join(map(str, cells))
    query = f"""
        WITH r AS (FROM rows WHERE cell IN ({numbers})),
        shared AS (SELECT site FROM r GROUP BY site HAVING count(DISTINCT cell) = {len(cells)})
        SELECT count(DISTINCT print) FROM (SELECT {PRINT} FROM r WHERE site IN (FROM shared) GROUP BY cell)"""
    ((prints,),) = runs.sql(query, cells=cells)
    return bool(prints < 2)


def evidence(
    runs: Comparison,
    pairs: Sequence[tuple[int, int]],
    scales_decide: Sequence[bool],
    prints: dict[int, int] | None = None,
) -> list[Evidence]:
    """The evidence of every (baseline, other) pair. prints: `digests(runs)`, where they are known already.

    scales_decide: per pair, whether an effect has to show in the scales too. Not so between number formats
    or granularities, which change the SQNR by themselves.
    """
    numbers = sorted({cell for pair in pairs for cell in pair})
    if not pairs:
        return []
    sites = runs.sites
    cells = read(runs, numbers)
    prints = prints or digests(runs)
    compared = []
    for (a, b), decide in zip(pairs, scales_decide, strict=True):
        paired = runs.listed[a].key == runs.listed[b].key
        compared.append(_compare(cells, sites, a, b, paired, prints[a] == prints[b], decide))
    return compared


def _compare(
    cells: dict[int, Places], sites: list[str], a: int, b: int, paired: bool, exact: bool, decide: bool
) -> Evidence:
    first, second = cells[a], cells[b]
    codes, i, j = np.intersect1d(first.codes, second.codes, assume_unique=True, return_indices=True)
    layer, which = np.divmod(codes, len(sites))
    site = np.array(sites, object)[which]
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.log(second.scale[j]) - np.log(first.scale[i])
    scale[second.scale[j] == first.scale[i]] = 0.0
    with np.errstate(invalid="ignore"):
        sqnr = second.sqnr[j] - first.sqnr[i]
    same = (second.sqnr[j] == first.sqnr[i]) | (np.isnan(second.sqnr[j]) & np.isnan(first.sqnr[i]))
    sqnr[same] = 0.0  # both lossless, or both all zeros
    scale_k, sqnr_k, folds = _errors(first, second, i, j, paired)
    moved = _Moved(scale, sqnr, scale_k, sqnr_k, folds, decide)
    present = np.unique(which)
    deployed = np.array([name in quantized() for name in sites], bool)
    members = [deployed[which], *(which == number for number in present)]
    names = np.array(["all", *(sites[number] for number in present)], object)
    return Evidence(a, b, paired, folds, exact, moved.tested(layer, site), moved.means(names, members))


def _errors(
    first: Places, second: Places, i: NDArray[np.int64], j: NDArray[np.int64], paired: bool
) -> tuple[list[Floats], list[Floats], int]:
    """Replicates of ln scale and SQNR whose jackknife errors add in quadrature: one array if paired, else two."""
    x, y = (first.scale_replicates, second.scale_replicates), (first.sqnr_replicates, second.sqnr_replicates)
    if x[0] is None or x[1] is None or y[0] is None or y[1] is None:
        return [], [], 1
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = np.log(x[0][i]), np.log(x[1][j])
        p, q = y[0][i], y[1][j]
        if paired and u.shape == v.shape:
            return [_zero(v - u)], [_zero(q - p)], u.shape[1]
    return [u, v], [p, q], min(u.shape[1], v.shape[1])


def _zero(difference: Floats) -> Floats:
    """inf - inf is no difference."""
    return np.where(np.isnan(difference), 0.0, difference)


def _quadrature(replicates: list[Floats], like: Floats) -> Floats:
    if not replicates:
        return np.full(like.shape, np.nan)
    errors = [jackknife(r) for r in replicates]
    coarse = np.any([e == 0 for e in errors], axis=0)  # of two, one that tells nothing
    return np.where(coarse, 0.0, np.sqrt(sum(e**2 for e in errors)))


@dataclass(frozen=True, eq=False)
class _Moved:
    """By how much rows differ between two cells: ln scale and SQNR in dB, [n]; scale_k and sqnr_k, their replicates
    [n, K], whose jackknife errors add in quadrature. decide: whether scales and SQNR have to differ both."""

    scale: Floats
    sqnr: Floats
    scale_k: list[Floats]
    sqnr_k: list[Floats]
    folds: int
    decide: bool

    def tested(self, layer: NDArray[np.int64], site: NDArray[np.object_]) -> Differences:
        scale_se, sqnr_se = _quadrature(self.scale_k, self.scale), _quadrature(self.sqnr_k, self.sqnr)
        df, certain = freedom(self.folds), len(self.scale_k) == 1
        scale_p = p_values(self.scale, scale_se, df, certain)
        sqnr_p = p_values(self.sqnr, sqnr_se, df, certain)
        p = np.maximum(scale_p, sqnr_p) if self.decide else sqnr_p
        return Differences(layer, site, self.scale, scale_se, scale_p, self.sqnr, sqnr_se, sqnr_p, p)

    def means(self, names: NDArray[np.object_], members: list[NDArray[np.bool_]]) -> Differences:
        """Tests of the mean difference over sets of rows. Replicates are averaged fold by fold first, so what the
        rows have in common stays in the error."""
        finite = np.isfinite(self.scale) & np.isfinite(self.sqnr)
        rows = [np.flatnonzero(member & finite) for member in members]
        keep = [k for k, here in enumerate(rows) if len(here)]

        def mean(values: Floats) -> Floats:
            return np.array([values[rows[k]].mean(axis=0) for k in keep]).reshape(len(keep), *values.shape[1:])

        scale_k, sqnr_k = ([mean(each) for each in replicates] for replicates in (self.scale_k, self.sqnr_k))
        averaged = _Moved(mean(self.scale), mean(self.sqnr), scale_k, sqnr_k, self.folds, self.decide)
        return averaged.tested(np.full(len(keep), -1), names[keep])
