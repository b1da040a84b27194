"""Running sums over sorted values, which searches read in time that depends on the number of codes and not on
the number of values.

For a quantizer with levels L_0 < … < L_Q and the borders b_j half-way between them,

    sum (x - q(x))^2  =  sum (x - L_Q)^2  -  2 sum_j (L_j - L_(j-1)) F(b_j),    F(b) = sum over x < b of (b - x)

(take one level off the values below each border in turn: each of them changes its squared error by
(L_j - L_(j-1)) * 2 (x - b_j)).

Rounding of the running sums leaves an error of about 1e-14 of sum x^2.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sweep.quantization.fold_sums import FoldSums
from sweep.quantization.lookup import Lookup
from sweep.quantization.types import Floats

_AT_ONCE = 1 << 11  # rows looked up at a time: they stay in a core's own cache


class Sums:
    """x: float64 [m], the values, ascending, of a stack of R histograms.

    below: float64 [m + 1, 2, R]; row i holds, over the i smallest values, the sums of 1 and x.
    squares: float64 [m + 1, R], the same of x^2.
    count, first, second: float64 [R], the same over all values."""

    def __init__(self, x: Floats, counts: Floats) -> None:
        """x [m], ascending; counts [R, m]."""
        self.x, self._lookup = x, Lookup(x)
        self.members = len(counts)
        # empty, not zeros: new pages of memory would cost more than the sums
        self.below, self.squares = np.empty((len(x) + 1, 2, self.members)), np.empty((len(x) + 1, self.members))
        self.below[0], self.squares[0] = 0, 0
        terms, weight = np.array(counts.T, order="C"), x[:, None]
        np.cumsum(terms, axis=0, out=self.below[1:, 0])
        np.cumsum(np.multiply(terms, weight, out=terms), axis=0, out=self.below[1:, 1])
        np.cumsum(np.multiply(terms, weight, out=terms), axis=0, out=self.squares[1:])
        (self.count, self.first), self.second = self.below[-1], self.squares[-1]

    def cost(self, scales: Floats, codes: Floats) -> Floats:
        """Sum of squared errors [C, R] for scales [C]."""
        steps, middles = np.diff(codes), (codes[1:] + codes[:-1]) / 2
        weights = np.stack([steps * middles, steps])
        saved = np.empty((len(scales), self.members))
        places = self._lookup.below(scales[:, None] * middles)
        for part in _parts(len(scales), len(middles)):
            s = scales[part, None]
            rows = self._pairs.take(places[part], 0)  # [C, borders, 2R]
            both = weights @ rows
            saved[part] = s * both[:, 0, : self.members] - both[:, 1, self.members :]
        s = scales[:, None]
        return np.asarray(self._beyond(s * codes[-1]) - 2 * s * saved)

    def cost_shifted(self, scales: Floats, codes: int, zeros: slice) -> Floats:
        """Sum of squared errors [C, Z, R] for scales [C] and the zero points of a range, of `codes` integers."""
        zero = np.arange(zeros.start, zeros.stop)
        number = np.arange(1 - zero[-1], codes - zero[0])  # of the border between number - 1 and number
        saved = np.empty((len(scales), len(zero), self.members))
        for part in _parts(len(scales), len(number)):
            borders = scales[part, None] * (number - 0.5)
            rows = self._pairs.take(np.searchsorted(self.x, borders), 0)
            f = borders[..., None] * rows[..., : self.members] - rows[..., self.members :]
            upto = np.concatenate([np.zeros_like(f[:, :1]), f.cumsum(1)], 1)
            # the window of zero point z holds the borders 1 - z … codes - 1 - z
            saved[part] = upto[:, codes - 1 + zero[-1] - zero] - upto[:, zero[-1] - zero]
        s = scales[:, None, None]
        return self._beyond(s * (codes - 1 - zero)[:, None]) - 2 * s * saved

    def cost_each(self, scales: Floats, codes: Floats) -> Floats:
        """Sum of squared errors [P, R], where scales [P, R] and codes [P, R, Q+1] or [Q+1] differ by member."""
        borders = scales[..., None] * (codes[..., 1:] + codes[..., :-1]) / 2
        i = self._lookup.below(borders)
        f = borders * self._own(i, 0) - self._own(i, 1)
        return np.asarray(self._beyond(scales * codes[..., -1]) - 2 * scales * (np.diff(codes) * f).sum(-1))

    def fit(self, scales: Floats, codes: Floats) -> Floats:
        """Lloyd's step: sum x q / sum q^2 over the codes q that scales [P, R] and codes, as above, give to x."""
        i = self._lookup.below(scales[..., None] * (codes[..., 1:] + codes[..., :-1]) / 2)
        top = codes[..., -1]
        product = top * self.first - (np.diff(codes) * self._own(i, 1)).sum(-1)
        square = top**2 * self.count - (np.diff(np.square(codes)) * self._own(i, 0)).sum(-1)
        return np.asarray(np.divide(product, square, out=scales.copy(), where=(square > 0) & (product > 0)))

    def beyond(self, ends: Floats) -> Floats:
        """Squared error of clipping to at most `ends` [C] alone, sum over x > end of (x - end)^2, [C, R]."""
        rows = np.searchsorted(self.x, ends)
        count, first = (self.below[-1] - self.below[rows]).transpose(1, 0, 2)
        second = self.second - self.squares[rows]
        c = ends[:, None]
        return np.asarray(second - 2 * c * first + np.square(c) * count)

    def _beyond(self, level: Floats) -> Floats:
        return np.asarray(self.second - 2 * level * self.first + np.square(level) * self.count)

    @property
    def _pairs(self) -> Floats:
        return self.below.reshape(len(self.below), -1)

    def _own(self, rows: NDArray[np.intp], moment: int) -> Floats:
        """below[rows, moment] of each member's own rows [P, R, …]."""
        member = np.arange(self.members)[:, None]
        return np.asarray(self.below[rows, moment, member])


@lru_cache(maxsize=2)
def signed(histogram: FoldSums) -> Sums:
    """Running sums over the values of a stack. Those of the last few are kept: methods and formats share them."""
    counts = histogram.members @ histogram.stack.ordered(np.float64)  # whole numbers: exact below 2^53
    return Sums(histogram.values[histogram.ascending], counts)


@lru_cache(maxsize=2)
def folded(histogram: FoldSums) -> Sums:
    """Running sums over the magnitudes of the values of a stack."""
    return signed.__wrapped__(histogram.magnitudes)


def _parts(candidates: int, borders: int) -> list[slice]:
    size = max(1, _AT_ONCE // borders)
    return [slice(i, i + size) for i in range(0, candidates, size)]
