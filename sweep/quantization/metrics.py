"""The cost of a scale, read off the histogram: clipped share, squared error, SQNR, entropy of the codes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.quantization.fold_sums import FoldSums
from sweep.quantization.formats import Quantizer
from sweep.quantization.types import Floats, Ints


@dataclass(frozen=True, eq=False)
class Metrics:
    """For a stack of K all float64 [K]; NaN where a member is empty.

    clip_fraction: share of the values outside [low, high] of the quantizer, the ends themselves inside.
    mse: mean of (x - q(x))^2. sqnr_db: 10 log10(mean x^2 / mse), +inf where nothing is lost, NaN where all
    values are zero. code_entropy_bits: -sum p log2 p over the codes in use.

    Exact for 16-bit layouts, but for the rounding of sums of positive terms. For float32 every
    value counts as the middle of its bin (off by at most 2^-11 of itself, of single folds 2^-9; and only the bins that
    hold a border between codes are split wrongly). A bin that holds an end of the clip is split as `Histogram.under`
    says, so that clip_fraction is off by no more than that bin's share.
    """

    clip_fraction: Floats
    mse: Floats
    sqnr_db: Floats
    code_entropy_bits: Floats


def measure(histogram: FoldSums, quantizer: Quantizer) -> Metrics:
    """The cost of quantizing what each member of a stack holds with `quantizer`."""
    return measure_each(histogram, [quantizer])[0]


def measure_each(histogram: FoldSums, quantizers: Sequence[Quantizer]) -> list[Metrics]:
    """The costs of many quantizers of one format, in less time than one by one."""
    x, count = histogram.values[histogram.ascending], histogram.n
    places = np.stack([ends(x, q) for q in quantizers])
    power, *lost = _power_and_errors(histogram, x, quantizers, places)
    inside = _inside(histogram, x, quantizers)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = histogram.between(places) / count[:, None]  # [Q, S, codes]
        bits = -(p * np.log2(np.where(p > 0, p, 1))).sum(-1)
        return [
            Metrics((count - kept) / count, error / count, 10 * np.log10(power / error), entropy)
            for kept, error, entropy in zip(inside, lost, bits, strict=True)
        ]


def _inside(histogram: FoldSums, x: Floats, quantizers: Sequence[Quantizer]) -> Ints:
    """Number of values of each member between the ends of each quantizer, [Q, S]; x: the values of the bins,
    ascending."""
    lows, highs = [q.low for q in quantizers], [q.high for q in quantizers]
    if not histogram.layout.exact:  # a bin that holds an end may hold a hundredth of all values
        below = histogram.under(np.array(lows + np.nextafter(highs, np.inf).tolist()))  # the ends are inside
        return np.asarray((below[:, len(lows) :] - below[:, : len(lows)]).T)
    places = np.stack([np.searchsorted(x, lows), np.searchsorted(x, highs, side="right")], 1)
    return histogram.between(places)[..., 0]


def sqnr_each(histogram: FoldSums, quantizers: Sequence[Quantizer]) -> Floats:
    """SQNR of each member of a stack of K with a quantizer of its own, dB, float64 [K]; see `Metrics`."""
    x = histogram.values[histogram.ascending]
    power, *lost = _power_and_errors(histogram, x, quantizers, [ends(x, q) for q in quantizers])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(10 * np.log10(power / np.diagonal(np.stack(lost))))


def _power_and_errors(
    histogram: FoldSums, x: Floats, quantizers: Sequence[Quantizer], places: Iterable[NDArray[np.intp]]
) -> Floats:
    """The sum of x^2 of each member, then those of the squared errors of each quantizer, [1 + Q, S]."""
    weights = np.empty((1 + len(quantizers), len(x)))
    np.square(x, out=weights[0])
    squared_errors(x, quantizers, places, weights[1:])
    return histogram.weigh(weights)


def squared_errors(x: Floats, quantizers: Sequence[Quantizer], places: Iterable[NDArray[np.intp]], out: Floats) -> None:
    """Write (x - q(x))^2 of the ascending values x [m] to out [Q, m], given the `ends` of each quantizer."""
    for row, quantizer, place in zip(out, quantizers, places, strict=True):
        np.subtract(x, np.repeat(quantizer.levels, np.diff(place)), out=row)
        np.square(row, out=row)  # while it is in a core's own cache


def ends(x: Floats, quantizer: Quantizer) -> NDArray[np.intp]:
    """The position among the ascending values x at which each code begins, and the end of the last, [codes + 1]."""
    if quantizer.scale == 0.0:  # everything becomes the code of zero
        zero = int(np.searchsorted(quantizer.format.codes, quantizer.zero_point))
        return np.repeat([0, len(x)], [zero + 1, len(quantizer.format.codes) - zero])
    return np.concatenate([[0], np.searchsorted(x, quantizer.borders, side="right"), [len(x)]])
