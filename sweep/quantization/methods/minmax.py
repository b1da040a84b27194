"""The extremes observed."""

from __future__ import annotations

import numpy as np

from sweep.quantization.formats import Format
from sweep.quantization.methods.method import Ends, Method, Observed


def clip(observed: Observed, alpha: float | None, format: Format) -> Ends:
    histogram = observed.histogram
    empty = np.where(histogram.n > 0, 0.0, np.nan)
    size = histogram.absmax + empty
    return (-size, size) if format.symmetric else (histogram.min + empty, histogram.max + empty)


METHOD = Method(
    "minmax",
    "the largest magnitude; with a zero point, both extremes",
    clip,
    quantile=True,
    reads_maxima=True,
    averages=False,
)
