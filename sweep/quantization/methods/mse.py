"""The clip that costs least: smallest mean squared error, by exhaustive search on running sums.

Clipping at c loses at least what lies beyond it, sum over x > c of (x - c)^2, which falls with c; where that alone
exceeds the cost of a candidate already seen there is no optimum. From there to the largest magnitude the
candidates are spaced by half the distance of the two largest codes, at most 1 %, and eight times as densely around
the eight best: what 16 bits can represent makes narrow dips. The four best local minima are
then improved by Lloyd's step, scale <- sum x q / sum q^2 over the codes q that they give, which never raises the
cost (S. P. Lloyd, Least squares quantization in PCM, 1982, for one free parameter). For formats with a zero point
all zero points of a scale are tried: the codes are the multiples of the scale in a sliding window, so their costs
are differences of one cumulative sum.

A clip never exceeds the largest magnitude (with a zero point: the interval is never longer than that of the
values and zero). Costs that agree to 1e-11 of the power (110 dB) are equal, and the largest scale is taken.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sweep.quantization.fold_sums import FoldSums
from sweep.quantization.formats import Format
from sweep.quantization.methods.method import Ends, Method, argmin
from sweep.quantization.prefix_sums import Sums, folded, signed
from sweep.quantization.types import Floats, Ints

COARSEST_STEP = 0.01  # of the clip, between candidates
BEST = 8  # candidates of a member whose neighbourhood is looked at closely
FINER = 8
MINIMA = 4  # local minima that are refined
LLOYD_STEPS = 4
EQUAL = 1e-11  # of the power


def clip(histogram: FoldSums, format: Format) -> Ends:
    """The optimal clip of each member of a stack; NaN where one is empty."""
    occupied = histogram.n > 0
    low, high = (np.where(occupied, end, np.nan) for end in (histogram.min, histogram.max))
    return least(low, high, format, lambda: folded(histogram) if format.mirrored else signed(histogram))


def least(low: Floats, high: Floats, format: Format, weighted: Callable[[], Sums]) -> Ends:
    """The clips of least weighted squared error of R members between extremes [R], which are NaN where one is empty.

    weighted: the running sums of the members' values, of their magnitudes if the format is mirrored."""
    empty = np.where(np.isnan(low), np.nan, 0.0)
    low, high = np.fmin(low, 0) + 0.0, np.fmax(high, 0) + 0.0
    if format.symmetric:
        high = np.maximum(-low, high)
    if not np.any(high - low > 0):
        return empty, empty
    if format.symmetric:
        scale = _symmetric(weighted(), high, format)
        return empty - scale * format.largest, empty + scale * format.largest
    scale, zero = _shifted(weighted(), low, high, format)
    return empty - zero * scale, empty + (format.largest - zero) * scale


def _symmetric(sums: Sums, high: Floats, format: Format) -> Floats:
    codes, top = format.magnitudes if format.mirrored else format.codes, float(high.max())
    bound = sums.cost(_coarse(top) / format.largest, codes).min(0)
    step = _step(format)
    limit = high / format.largest
    scales = _spaced(_shortest(sums, bound, top), top, step) / format.largest  # of the positive half, which suffices
    scales = _around(scales, _within(limit, scales, sums.cost(scales, codes)), step)
    start = scales[_minima(_within(limit, scales, sums.cost(scales, codes)))]  # [P, R]
    return _refine(sums, start, codes, limit, codes)[0]


def _shifted(sums: Sums, low: Floats, high: Floats, format: Format) -> tuple[Floats, Ints]:
    number, top = len(format.codes), float((high - low).max())
    bound = sums.cost_shifted(_coarse(top) / format.largest, number, slice(0, number)).min((0, 1))
    mirrored = Sums(-sums.x[::-1], np.diff(sums.below[:, 0], axis=0).T[:, ::-1])
    left, right = _shortest(mirrored, bound, float(-low.min())), _shortest(sums, bound, float(high.max()))

    def search(scales: Floats) -> tuple[Floats, Floats]:
        """For each scale and member the least cost [C, R] over zero points, and the zero point."""
        costs, zeros = np.empty((2, len(scales), len(low)))
        for part in range(0, len(scales), 16):  # a few neighbours share the range of zero points worth trying
            s = scales[part : part + 16]
            first = max(0, int(left / s.max()), number - 2 - int(-(-high.max() // s.min())))
            last = min(number - 1, int(-(low.min() // s.min())) + 1, number - 1 - int(right / s.max()))
            first = min(first, last)
            tried = sums.cost_shifted(s, number, slice(first, last + 1))
            costs[part : part + 16], zeros[part : part + 16] = tried.min(1), tried.argmin(1) + first
        return _within(limit, scales, costs), zeros

    limit = (high - low) / format.largest
    step = 2 * _step(format)  # both ends move
    scales = _spaced(left + right, top, step) / format.largest
    scales = _around(scales, search(scales)[0], step)
    costs, zeros = search(scales)
    best = _minima(costs)
    zero = np.take_along_axis(zeros, best, 0)  # [P, R]
    whole = np.rint(-low / np.where(limit > 0, limit, 1.0))
    scale, chosen = _refine(sums, scales[best], format.codes - zero[..., None], limit, format.codes - whole[:, None])
    zero = np.concatenate([zero, zero, whole[None]])
    return scale, np.take_along_axis(zero, chosen[None], 0)[0].astype(np.int64)


def _coarse(top: float) -> Floats:
    return top * np.exp2(-np.arange(32) / 2)


def _shortest(sums: Sums, bound: Floats, top: float) -> float:
    """Lower bound of the search range of all members, given an upper bound of their least costs, [R]."""
    ends = top * np.exp2(-np.arange(256)[::-1] / 8)
    possible = (sums.beyond(ends) <= bound).any(1)
    first = int(possible.argmax())
    return float(ends[first - 1]) if first else 0.0


def _step(format: Format) -> float:
    """Logarithm of the ratio of neighbouring candidates."""
    largest, second = format.codes[-1], format.codes[-2]
    return float(np.log1p(min(COARSEST_STEP, (largest - second) / largest / 2)))


def _around(scales: Floats, costs: Floats, step: float) -> Floats:
    """Candidates FINER times as dense around those that cost the members least, ascending."""
    good = np.unique(np.argsort(costs, axis=0, kind="stable")[:BEST])
    between = np.exp(step * np.arange(-FINER // 2 + 1, FINER // 2 + 1) / FINER)
    return np.asarray((scales[good, None] * between).ravel())


def _spaced(low: float, top: float, step: float) -> Floats:
    """Lengths of the interval, ascending from `low` to `top`."""
    number = int(np.ceil(np.log(top / max(low, top * 2.0**-32)) / step))
    return np.asarray(top * np.exp(-step * np.arange(number + 1))[::-1])


def _within(limit: Floats, scales: Floats, costs: Floats) -> Floats:
    """Costs [C, R] without the scales [C] beyond the limits [R] of the members, but for the first of them."""
    return np.where(scales[:, None] <= limit * (1 + 2 * COARSEST_STEP), costs, np.inf)


def _minima(costs: Floats) -> Ints:
    """Positions [P, R] of the lowest local minima along the first axis of costs [C, R], best first."""
    wall = np.full((1, costs.shape[1]), np.inf)
    padded = np.concatenate([wall, costs, wall])
    local = (costs <= padded[:-2]) & (costs <= padded[2:])
    return np.argsort(np.where(local, costs, np.inf), axis=0, kind="stable")[:MINIMA]


def _refine(sums: Sums, start: Floats, codes: Floats, limit: Floats, whole: Floats) -> tuple[Floats, Ints]:
    """The best scale [R] of start [P, R], of what Lloyd's steps make of it, and of limit [R] with codes `whole`;
    and its position [R] in that order."""
    refined = start
    for _ in range(LLOYD_STEPS):
        refined = sums.fit(refined, codes)
    scales = np.concatenate([np.minimum(start, limit), np.minimum(refined, limit), limit[None]])
    near = [sums.cost_each(part, codes) for part in (scales[: len(start)], scales[len(start) : -1])]
    costs = np.concatenate([*near, sums.cost_each(limit[None], whole)])
    good = costs <= costs.min(0) + EQUAL * sums.second
    chosen = np.argmax(np.where(good, scales, -np.inf), 0)
    return np.take_along_axis(scales, chosen[None], 0)[0], chosen


METHOD = Method(
    "mse",
    "the clip of least squared error in this format",
    lambda observed, _, format: clip(observed.histogram, format),
    searches=True,
    rate=argmin,
    power=3,
)
