"""Two ratios that must not be confused: scale after / before SiLU, and activation scale / weight scale.

silu_gain = scale after SiLU / scale before it, same method and alpha. |silu(x)| <= |x| for every x, so no
quantile of magnitudes grows: the gain is at most 1 (a theorem; it does not bind methods that are not
quantiles, such as mse or entropy).
ratio = mean activation scale after SiLU / scale of the conv1d *weight* slice. Two different things in
different units: a ratio above 1 is no expansion, and its size says nothing about SiLU.
"""

from __future__ import annotations

from dataclasses import dataclass

from sweep.compare.query.comparison import Comparison
from sweep.quantization.methods.registry import METHODS

TOLERANCE = 1e-3  # a quantile interpolated inside a histogram bin may be off by its width, 2^-10


def is_quantile(method: str) -> bool:
    """Whether a method's clip is a quantile; not known of methods that are not registered here."""
    return method in METHODS and METHODS[method].quantile


@dataclass(frozen=True)
class Silu:
    """Extremes over the layers and settings of a model at one site; layers from 0."""

    model: str
    site: str
    rows: int
    gain_low: float
    gain_mean: float
    gain_high: float
    gain_high_layer: int
    ratio_low: float
    ratio_high: float
    ratio_above_one: int  # rows with a ratio above 1 though SiLU did not expand there
    expanded: int  # rows with a gain above 1 by more than rounding: impossible for a quantile

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
    source = runs.source("scales.parquet", numbers)
    if source is None:
        return []
    query = f"""
        SELECT model, site, count(*), min(silu_gain), avg(silu_gain), max(silu_gain), arg_max(layer, silu_gain),
               min(ratio), max(ratio), count(*) FILTER (ratio > 1 AND silu_gain <= 1 + {TOLERANCE}),
               count(*) FILTER (silu_gain > 1 + {TOLERANCE})
        FROM {source} WHERE silu_gain IS NOT NULL GROUP BY model, site ORDER BY model, site DESC"""
    return [Silu(*row) for row in runs.sql(query)]
