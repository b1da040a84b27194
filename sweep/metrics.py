"""What a scale costs, read off the histogram."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.formats import Quantizer
from sweep.histogram import Histogram

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Metrics:
    """For one histogram all float64 [], for a stack of K all [K]; NaN where it is empty.

    clip_fraction: share of the values outside [low, high] of the quantizer, the ends themselves inside.
    mse: mean of (x - q(x))^2. sqnr_db: 10 log10(mean x^2 / mse), +inf where nothing is lost, NaN where all
    values are zero. code_entropy_bits: -sum p log2 p over the codes in use.

    Exact for 16-bit layouts; for float32 every value counts as the middle of its bin (off by at most 2^-11
    of itself, and only the clip's own bin is split wrongly).
    """

    clip_fraction: Floats
    mse: Floats
    sqnr_db: Floats
    code_entropy_bits: Floats


def measure(histogram: Histogram, quantizer: Quantizer) -> Metrics:
    """The cost of quantizing what `histogram` holds with `quantizer`."""
    x, codes = histogram.ascending
    parts = np.searchsorted(x, quantizer.borders) if quantizer.scale > 0 else None
    ...
