"""What a scale costs, read off the histogram."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.formats import Quantizer
from sweep.histogram import Histogram

Floats = NDArray[np.float64]


EXACT_BELOW = 1e-7  # of the power: less than that is summed term by term


@dataclass(frozen=True, eq=False)
class Metrics:
    """For a stack of K all float64 [K]; NaN where a member is empty.

    clip_fraction: share of the values outside [low, high] of the quantizer, the ends themselves inside.
    mse: mean of (x - q(x))^2. sqnr_db: 10 log10(mean x^2 / mse), +inf where nothing is lost, NaN where all
    values are zero. code_entropy_bits: -sum p log2 p over the codes in use.

    Exact for 16-bit layouts, but for rounding: 1e-7 of itself in mse, 1e-6 dB in sqnr_db. For float32 every
    value counts as the middle of its bin (off by at most 2^-11 of itself, and only the bins that hold a border
    between codes or the clip are split wrongly).
    """

    clip_fraction: Floats
    mse: Floats
    sqnr_db: Floats
    code_entropy_bits: Floats


def measure(histogram: Histogram, quantizer: Quantizer) -> Metrics:
    """The cost of quantizing what each member of a stack holds with `quantizer`."""
    sums = histogram.sums
    ends = _ends(sums.x, quantizer)
    held = np.diff(sums.below[ends], axis=0)  # [codes, 3, K]
    level = quantizer.levels
    error = held[:, 2].sum(0) - 2 * level @ held[:, 1] + np.square(level) @ held[:, 0]
    if np.any(error < EXACT_BELOW * sums.second):
        counts = np.diff(sums.below[:, 0], axis=0)
        error = np.square(sums.x - np.repeat(level, np.diff(ends))) @ counts
    low, high = np.searchsorted(sums.x, quantizer.low), np.searchsorted(sums.x, quantizer.high, side="right")
    inside = sums.below[high, 0] - sums.below[low, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        p = held[:, 0] / sums.count
        bits = -(p * np.log2(p, where=p > 0, out=p + 0.0)).sum(0)
        sqnr = 10 * np.log10(sums.second / error)
        return Metrics((sums.count - inside) / sums.count, error / sums.count, sqnr, bits)


def _ends(x: Floats, quantizer: Quantizer) -> NDArray[np.intp]:
    """Where each code begins among the ascending values x, and where the last one ends, [codes + 1]."""
    if quantizer.scale == 0.0:  # everything becomes the code of zero
        zero = int(np.searchsorted(quantizer.format.codes, quantizer.zero_point))
        return np.repeat([0, len(x)], [zero + 1, len(quantizer.format.codes) - zero])
    return np.concatenate([[0], np.searchsorted(x, quantizer.borders, side="right"), [len(x)]])
