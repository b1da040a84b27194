"""What a scale costs, read off the histogram."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.formats import Format
from sweep.histogram import Histogram

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Metrics:
    """For one histogram all float64 [], for a stack of K all [K].

    clip_fraction: share of the values beyond the outermost codes, clip itself not counted.
    mse: mean of (x - q(x))^2. sqnr_db: 10 log10(mean x^2 / mse), +inf where nothing is lost, NaN where all
    values are zero. code_entropy_bits: -sum p log2 p over the codes in use.

    Exact for 16-bit layouts; for float32 every value counts as the middle of its bin (off by at most 2^-11
    of itself, and only the clip's own bin is split wrongly).
    """

    clip_fraction: Floats
    mse: Floats
    sqnr_db: Floats
    code_entropy_bits: Floats


def measure(histogram: Histogram, format: Format, scale: float) -> Metrics:
    """The cost of quantizing what `histogram` holds to `format` at `scale`."""
    x = histogram.values
    codes = format.encode(x, scale)
    error = x - format.codes[codes] * scale
    counts = histogram.counts.astype(np.float64)
    n = counts.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mse = counts @ np.square(error) / n
        sqnr = 10 * np.log10(counts @ np.square(x) / n / mse)
        beyond = (x > format.codes[-1] * scale) | (x < format.codes[0] * scale)
        clipped = counts @ beyond.astype(np.float64) / n
        entropy = _entropy(counts, codes, len(format.codes))
    return Metrics(clipped, mse, sqnr, entropy)


def _entropy(counts: Floats, codes: NDArray[np.int64], size: int) -> Floats:
    rows = counts.reshape(-1, counts.shape[-1])
    used = np.stack([np.bincount(codes, weights=row, minlength=size) for row in rows])
    p = used / used.sum(-1, keepdims=True)
    bits = -(p * np.log2(p, where=p > 0, out=np.zeros_like(p))).sum(-1)
    return np.asarray(bits.reshape(counts.shape[:-1]))
