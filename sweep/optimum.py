"""The clip that costs least: smallest mean squared error, searched exhaustively on prefix sums.

For a quantizer with levels L_0 < … < L_Q and the borders b_j half-way between them,

    sum (x - q(x))^2  =  sum (x - L_Q)^2  -  2 sum_j (L_j - L_(j-1)) F(b_j),    F(b) = sum over x < b of (b - x)

(take one level off the values below each border in turn: each of them changes its squared error by
(L_j - L_(j-1)) * 2 (x - b_j)). F comes from two running sums over the sorted values, so one candidate costs one
look-up per border, whatever the number of values, for all members of a stack at once.

Search. Every clip c loses at least D(c) = sum over |x| > c of (|x| - c)^2, which falls with c: clips whose D
alone exceeds the cost of a candidate already seen are never the optimum. From there to the largest magnitude the
candidates are spaced by half the distance of the two largest codes, at most 1 %; the four best local minima are
then improved by Lloyd's step, scale <- sum x q / sum q^2 over the codes q that they give, which never raises the
cost. For formats with a zero point all zero points of a scale are tried: the codes are the multiples of the scale
in a sliding window, so their costs are differences of one cumulative sum.

A clip never exceeds the largest magnitude. Costs that agree to 1e-11 of the power (110 dB) are equal, and
the largest clip among them is taken.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sweep.formats import Format
from sweep.histogram import Histogram

Floats = NDArray[np.float64]

COARSEST_STEP = 0.01  # of the clip, between candidates
MINIMA = 4  # local minima that are refined
LLOYD_STEPS = 8
EQUAL = 1e-11  # of the power
_AT_ONCE = 1 << 15  # look-ups held in memory at a time


class Sums:
    """Running sums over the sorted values x [m] of a stack of R histograms.

    below: float64 [m + 1, 2R]; row i holds, for the i smallest values, R counts and then R sums of x.
    count, first, second: float64 [R], the sums of 1, x and x^2 over all values."""

    def __init__(self, x: Floats, counts: Floats) -> None:
        order = np.argsort(x, kind="stable")
        self.x, weights = x[order], counts[:, order]
        terms = np.concatenate([weights, weights * self.x])
        self.below = np.concatenate([np.zeros((1, len(terms))), np.cumsum(terms, 1).T])
        self.members = len(weights)
        self.count, self.first = self.below[-1, : self.members], self.below[-1, self.members :]
        self.second = weights @ np.square(self.x)

    def cost(self, scales: Floats, codes: Floats) -> Floats:
        """Sum of squared errors [C, R] for scales [C]."""
        steps, middles = np.diff(codes), (codes[1:] + codes[:-1]) / 2
        weights = np.stack([steps * middles, steps])
        found = np.empty((len(scales), self.members))
        for part in _parts(len(scales), len(middles)):
            s = scales[part, None]
            rows = self.below[np.searchsorted(self.x, s * middles)]  # [C, borders, 2R]
            both = weights @ rows
            found[part] = s * both[:, 0, : self.members] - both[:, 1, self.members :]
        s = scales[:, None]
        return self._beyond(s * codes[-1]) - 2 * s * found

    def cost_shifted(self, scales: Floats, codes: int) -> Floats:
        """Sum of squared errors [C, Z, R] for scales [C] and every zero point 0 … Z-1 of Z = `codes` integers."""
        number = np.arange(2 - codes, codes)  # of the border between number - 1 and number
        zero = np.arange(codes)
        found = np.empty((len(scales), codes, self.members))
        for part in _parts(len(scales), len(number)):
            borders = scales[part, None] * (number - 0.5)
            rows = self.below[np.searchsorted(self.x, borders)]
            f = borders[..., None] * rows[..., : self.members] - rows[..., self.members :]
            upto = np.concatenate([np.zeros_like(f[:, :1]), f.cumsum(1)], 1)
            found[part] = upto[:, 2 * codes - 2 - zero] - upto[:, codes - 1 - zero]
        s = scales[:, None, None]
        return self._beyond(s * (codes - 1 - zero)[:, None]) - 2 * s * found

    def improve(self, scales: Floats, codes: Floats) -> Floats:
        """Lloyd's step for scales [P, R], codes [P, R, Q+1] or [Q+1]: member r's scale is fitted to member r."""
        member = np.arange(self.members)[:, None]
        steps, squares = np.diff(codes), np.diff(np.square(codes))
        i = np.searchsorted(self.x, scales[..., None] * (codes[..., 1:] + codes[..., :-1]) / 2)
        top = codes[..., -1]
        product = top * self.first - (steps * self.below[i, self.members + member]).sum(-1)
        square = top**2 * self.count - (squares * self.below[i, member]).sum(-1)
        return np.divide(product, square, out=scales.copy(), where=(square > 0) & (product > 0))

    def cost_of(self, scales: Floats, codes: Floats) -> Floats:
        """Sum of squared errors [P, R], where scales [P, R] and codes [P, R, Q+1] or [Q+1] differ by member."""
        member = np.arange(self.members)[:, None]
        borders = scales[..., None] * (codes[..., 1:] + codes[..., :-1]) / 2
        i = np.searchsorted(self.x, borders)
        f = borders * self.below[i, member] - self.below[i, self.members + member]
        found = (np.diff(codes) * f).sum(-1)
        return self._beyond(scales * codes[..., -1]) - 2 * scales * found

    def clip_cost(self) -> Floats:
        """D(x), the least that clipping at each of the sorted values costs, [m, R]; for values that are magnitudes."""
        above = self.below[-1] - self.below[1:]
        count, first = above[:, : self.members], above[:, self.members :]
        weights = np.diff(self.below[:, : self.members], axis=0)
        squares = (weights * np.square(self.x)[:, None])[::-1].cumsum(0)[::-1]
        second = np.concatenate([squares[1:], np.zeros((1, self.members))])
        c = self.x[:, None]
        return second - 2 * c * first + c**2 * count

    def _beyond(self, level: Floats) -> Floats:
        return self.second - 2 * level * self.first + np.square(level) * self.count


def clip(histogram: Histogram, format: Format) -> tuple[Floats, Floats]:
    """(low, high), float64 [K] each, of the optimal clip of each member of a stack; NaN where one is empty."""
    size = np.where(histogram.n > 0, histogram.absmax, 0.0)
    if not np.any(size > 0):
        high = np.where(histogram.n > 0, 0.0, np.nan)
        return -high, high
    half = histogram.magnitudes
    folded = Sums(half.values, half.counts.astype(np.float64))
    if format.symmetric:
        high = _symmetric(folded, size, format)
        return -high, high
    return _shifted(Sums(histogram.values, histogram.counts.astype(np.float64)), folded, histogram, format)


def _symmetric(sums: Sums, size: Floats, format: Format) -> Floats:
    codes = format.magnitudes
    top = float(size.max())
    bound = sums.cost(_coarse(top) / format.largest, codes).min(0)
    grid = _candidates(sums, top, bound, format)
    scales = grid / format.largest
    start = scales[_minima(sums.cost(scales, codes))]  # [P, R]
    limit = np.where(size > 0, size, np.nan) / format.largest
    refined = start
    for _ in range(LLOYD_STEPS):
        refined = sums.improve(refined, codes)
    finalists = np.concatenate([np.minimum(start, limit), np.minimum(refined, limit), limit[None]])
    best = _choose(sums.cost_of(finalists, codes), finalists, sums.second)
    found = np.take_along_axis(finalists, best[None], 0)[0] * format.largest
    return np.where(size > 0, found, np.where(sums.count > 0, 0.0, np.nan))


def _shifted(sums: Sums, folded: Sums, histogram: Histogram, format: Format) -> tuple[Floats, Floats]:
    span = np.maximum(histogram.max, 0) - np.minimum(histogram.min, 0)
    span = np.where(np.isfinite(span), span, 0.0)  # of an empty member
    # a window of length w reaches at most w to either side of zero, so it costs at least what a clip at w does
    top = float(span.max())
    bound = sums.cost_shifted(_coarse(top) / format.largest, len(format.codes)).min((0, 1))
    grid = _candidates(folded, top, bound, format)
    scales = grid / format.largest
    costs = sums.cost_shifted(scales, len(format.codes))
    zeros = costs.argmin(1)  # [C, R]
    best = _minima(np.take_along_axis(costs, zeros[:, None], 1)[:, 0])
    start, zero = scales[best], np.take_along_axis(zeros, best, 0)  # [P, R]
    codes = format.codes - zero[..., None]
    limit = span / format.largest
    refined = start
    for _ in range(LLOYD_STEPS):
        refined = sums.improve(refined, codes)
    whole_zero = np.rint(-np.minimum(histogram.min, 0) / np.where(span > 0, limit, np.inf))
    finalists = np.concatenate([np.minimum(start, limit), np.minimum(refined, limit), limit[None]])
    zeros = np.concatenate([zero, zero, np.where(span > 0, whole_zero, 0)[None].astype(np.int64)])
    best = _choose(sums.cost_of(finalists, format.codes - zeros[..., None]), finalists, sums.second)
    scale, zero = (np.take_along_axis(a, best[None], 0)[0] for a in (finalists, zeros))
    empty = np.where(sums.count > 0, 0.0, np.nan)
    return empty - zero * scale, empty + (format.largest - zero) * scale


def _coarse(top: float) -> Floats:
    return top * np.exp2(-np.arange(32) / 2)


def _candidates(folded: Sums, top: float, bound: Floats, format: Format) -> Floats:
    """Clips up to `top`, ascending, that hold the optimum of every member, which costs `bound` [R] at most."""
    possible = (folded.clip_cost() <= bound).any(1)
    low = float(folded.x[int(possible.argmax())])
    low = min(max(low, top * 2.0**-24), top)
    largest, second = format.codes[-1], format.codes[-2]
    step = np.log1p(min(COARSEST_STEP, (largest - second) / largest / 2))
    number = int(np.ceil(np.log(top / low) / step)) + 1
    return np.asarray(top * np.exp(-step * np.arange(number + 1))[::-1])


def _minima(costs: Floats) -> NDArray[np.int64]:
    """Positions [P, R] of the lowest local minima along the first axis of costs [C, R], best first."""
    wall = np.full((1, costs.shape[1]), np.inf)
    padded = np.concatenate([wall, costs, wall])
    local = (costs <= padded[:-2]) & (costs <= padded[2:])
    masked = np.where(local, costs, np.inf)
    return np.argsort(masked, axis=0, kind="stable")[:MINIMA]


def _choose(costs: Floats, scales: Floats, power: Floats) -> NDArray[np.int64]:
    """Position [R] along the first axis of the largest scale among those of least cost."""
    good = costs <= np.nanmin(costs, 0) + EQUAL * power
    return np.argmax(np.where(good, scales, -np.inf), 0)


def _parts(candidates: int, borders: int) -> list[slice]:
    size = max(1, _AT_ONCE // borders)
    return [slice(i, i + size) for i in range(0, candidates, size)]
