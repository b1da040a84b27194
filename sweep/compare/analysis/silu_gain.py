"""Two ratios that must not be confused: scale after / before SiLU, and activation scale / weight scale.

silu_gain = scale after SiLU / scale before it, same method and alpha. |silu(x)| <= |x| for every x, so no
quantile of magnitudes grows: the gain is at most 1 (a theorem; it does not bind methods that are not
quantiles, such as mse or entropy).
ratio = mean activation scale after SiLU / scale of the conv1d *weight* slice. Two different things in
different units: a ratio above 1 is no expansion, and its size says nothing about SiLU.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace

import duckdb
import numpy as np

from sweep.compare.analysis.significance import Floats, jackknife
from sweep.compare.query.comparison import Comparison
from sweep.compare.query.database import GROUPS, REPLICATES, SCALES
from sweep.quantization.methods.registry import METHODS

TOLERANCE = 1e-3  # a quantile interpolated inside a histogram bin may be off by its width, 2^-10


def is_quantile(method: str) -> bool:
    """Whether a method's clip is a quantile; not known of methods that are not registered here."""
    return method in METHODS and METHODS[method].quantile


@dataclass(frozen=True)
class Silu:
    """Extremes over the layers and settings of a model at one site; layers from 0. Each `…_se` is the standard error of
    what is named before it, over folds; None where no replicates tell it. That of an extreme is of its row: which row
    it is, noise may decide."""

    model: str
    site: str
    rows: int
    gain_low: float
    gain_low_se: float | None
    gain_high: float
    gain_high_se: float | None
    ratio_low: float
    ratio_low_se: float | None
    ratio_high: float
    ratio_high_se: float | None
    ratio_above_one: int  # rows with a ratio above 1 though SiLU did not expand there
    expanded: int  # rows with a gain above 1 by more than rounding: impossible for a quantile
    gain_mean: float
    gain_mean_se: float | None = None

    @property
    def holds(self) -> bool:
        """True if the numbers bear the theorem out, as they have to."""
        return self.expanded == 0


def silu(runs: Comparison, cells: list[int] | None = None) -> list[Silu]:
    """Per model and site, over the cells whose method is a quantile."""
    numbers = [
        n for n in (cells if cells is not None else range(len(runs.listed)))
        if is_quantile(runs.listed[n].method)
    ]  # fmt: skip
    source = runs.source(SCALES, numbers)
    if source is None:
        return []
    errors = runs.source(REPLICATES, numbers)
    try:
        rows = runs.sql(_query(source, errors))
    except duckdb.BinderException:  # replicates of before they had these columns
        errors = None
        rows = runs.sql(_query(source, None))
    of_mean = _errors_of_means(runs, errors) if errors else {}
    return [replace(Silu(*row), gain_mean_se=of_mean.get(row[:3])) for row in rows]


def _query(source: str, replicates: str | None) -> str:
    """SQL for all of a Silu but the error of its mean."""
    place = ", ".join(("cell", "layer", "site", *GROUPS))
    told = "NULL::DOUBLE AS gain_se, NULL::DOUBLE AS ratio_se"
    if replicates:
        told = ", ".join(
            f"CASE WHEN count({column}) = count(*) AND count(*) > 1 THEN sqrt((count(*) - 1) * var_pop({column})) END "
            f"AS {name}"
            for name, column in (("gain_se", "silu_gain"), ("ratio_se", "ratio"))
        )
    same = " AND ".join(f"s.{name} IS NOT DISTINCT FROM e.{name}" for name in ("cell", "layer", "site", *GROUPS))
    # of rows that tie the one that errs most, whatever the order in which they are read
    at = ", ".join(
        f"{sign}({extreme}).v, ({extreme}).se"
        for column, error in (("silu_gain", "gain_se"), ("ratio", "ratio_se"))
        for sign in ("-", "")
        # a null, as the ratio to weights that are zero, would be the largest
        for extreme in [f"max({{'v': {sign}{column}, 'se': {error}}}) FILTER ({column} IS NOT NULL)"]
    )
    return f"""
        WITH e AS (SELECT {place}, {told} FROM {replicates or source} WHERE silu_gain IS NOT NULL GROUP BY {place})
        SELECT model, s.site, count(*), {at}, count(*) FILTER (ratio > 1 AND silu_gain <= 1 + {TOLERANCE}),
               count(*) FILTER (silu_gain > 1 + {TOLERANCE}), avg(silu_gain ORDER BY silu_gain)
        FROM {source} s LEFT JOIN e ON {same}
        WHERE silu_gain IS NOT NULL GROUP BY model, s.site ORDER BY model, s.site DESC"""


def _errors_of_means(runs: Comparison, replicates: str) -> dict[tuple[str, str, int], float]:
    """Standard error of the mean gain by model, site and number of rows. Cells of one calibration left out the same
    folds; calibrations may share text, as 64 samples are the first of 128, so their errors are added: at most that."""
    query = (
        "SELECT cell, site, list(total ORDER BY fold), any_value(n) FROM (SELECT cell, site, fold, sum(silu_gain) AS "
        f"total, count(*) AS n FROM {replicates} WHERE silu_gain IS NOT NULL GROUP BY ALL) GROUP BY cell, site "
        "ORDER BY cell, site"
    )
    calibrations: dict[tuple[str, str], dict[str, list[Floats]]] = defaultdict(lambda: defaultdict(list))
    rows: dict[tuple[str, str], int] = defaultdict(int)
    for number, site, folds, n in runs.sql(query):
        cell = runs.listed[number]
        calibrations[cell.model, site][cell.key].append(np.array(folds))
        rows[cell.model, site] += n
    told = {}
    for (model, site), each in calibrations.items():
        n = rows[model, site]
        told[model, site, n] = math.fsum(float(jackknife(np.sum(cells, 0))) / n for cells in each.values())
    return {place: error for place, error in told.items() if math.isfinite(error)}
