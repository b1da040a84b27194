"""A signed histogram whose bins are the bit patterns of floating-point values.

The bit pattern of a float, read as an integer, is already a logarithmic bin index: it grows with the
magnitude, and its sign is the top bit. Every layout here has 65,536 bins: bit 15 of a bin code is the sign,
the 15 bits below it are a magnitude index.

Guarantees
* `bfloat16`, `float16`: one bin per representable value. Counts lose nothing: every quantile is an order
  statistic of the values observed, `numpy.quantile(..., method="higher")`, bit for bit.
* `float32`: a value is counted in the bin of the float16 that it rounds to, which is one instruction of any
  processor and gives bins of 10 mantissa bits over [2^-14, 65520), evenly spaced ones below. A quantile follows
  `numpy.quantile(..., method="linear")` with each order statistic interpolated inside its bin, so it is off
  by at most one bin: 2^-10 of its magnitude (0.098 %) or, below 2^-14, 2^-24; in practice by far less. What
  rounds to zero or to infinity is counted in the two end bins of each sign; there the bound does not hold
  (see `outside`), but min and max are exact always.
* Counts are int64 and additive. Merging is addition, hence associative, commutative and independent of
  the order of observation; layouts that differ do not merge.
* Stochastic dominance survives: if |y| <= |x| value by value, no quantile of |y| exceeds that of |x|,
  because bins follow each other as values do, and quantiles as bins do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from sweep.sums import Sums

BINS = 65_536
SIGN = 32_768  # bit 15 of a bin code

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Layout:
    """How a value becomes a bin. `name` is the dtype observed; `exact` says whether a bin holds one value only."""

    name: str
    exact: bool = True

    @cached_property
    def edges(self) -> Floats:
        """Magnitudes [32769]: bin i holds [edges[i], edges[i+1]] in float32, exactly edges[i] otherwise.

        The float32 end bins, 0 and `top`, also hold everything below and above the window."""
        index = np.arange(SIGN + 1, dtype=np.uint32)
        wide = self.name == "bfloat16"  # the upper half of a float32
        with np.errstate(invalid="ignore"):  # the patterns of NaN, which no observed value has
            found = ((index << 16).view(np.float32) if wide else index.astype(np.uint16).view(np.float16)).astype(
                np.float64
            )
        if self.exact:
            return found
        found[self.top] = 2.0**16  # where the next value would be: what lies beyond half-way rounds to infinity
        found[1 : self.top + 1] = (found[: self.top] + found[1 : self.top + 1]) / 2
        found[self.top + 1 :] = np.inf
        return found

    @property
    def top(self) -> int:
        """The magnitude index of infinity, and in float32 of all that rounds to it."""
        return 0x7F80 if self.name == "bfloat16" else 0x7C00

    def __str__(self) -> str:
        return self.name if self.exact else f"{self.name} rounded to float16"


BFLOAT16 = Layout("bfloat16")
FLOAT16 = Layout("float16")
FLOAT32 = Layout("float32", exact=False)


@cache
def layout(name: str) -> Layout:
    """The layout written as `str(layout)`. Raises ValueError for any other string."""
    for known in (BFLOAT16, FLOAT16, FLOAT32):
        if name == str(known):
            return known
    raise ValueError(f"unknown histogram layout {name!r}")


@dataclass(frozen=True, eq=False)
class Histogram:
    """One histogram, or a stack of K over the same bins (for example the folds of a calibration).

    bins: int32 [m], strictly ascending codes of the occupied bins. counts: int64 [m] or [K, m].
    min, max: float64 [] or [K], the exact extremes of the values observed (+inf, -inf where there are none).
    """

    layout: Layout
    bins: NDArray[np.int32]
    counts: Ints
    min: Floats
    max: Floats
    # where a stack was combined from another: |x| of it follows from |x| of that one, which is computed once
    _origin: tuple[Histogram, Callable[[Histogram], Histogram]] | None = field(default=None, repr=False)

    @classmethod
    def from_dense(cls, layout: Layout, dense: Ints, low: float, high: float) -> Histogram:
        """From counts of all 65,536 codes, int64 [65536]."""
        bins = np.flatnonzero(dense)
        return cls(layout, bins.astype(np.int32), dense[bins], np.array(low), np.array(high))

    @classmethod
    def stack(cls, parts: list[Histogram]) -> Histogram:
        """K single histograms as one stack. Raises ValueError if their layouts differ."""
        _check_layouts(parts)
        bins, places = _union([p.bins for p in parts])
        counts = np.zeros((len(parts), len(bins)), np.int64)
        for row, place, part in zip(counts, places, parts, strict=True):
            row[place] = part.counts
        low = np.array([p.min for p in parts], np.float64)
        high = np.array([p.max for p in parts], np.float64)
        return cls(parts[0].layout, bins, counts, low, high)

    def __add__(self, other: Histogram) -> Histogram:
        """The histogram of both sets of values. Raises ValueError if layouts or stack sizes differ."""
        if self.counts.shape[:-1] != other.counts.shape[:-1]:
            raise ValueError(f"cannot merge stacks of {self.counts.shape[:-1]} and {other.counts.shape[:-1]}")
        _check_layouts([self, other])
        bins, places = _union([self.bins, other.bins])
        counts = np.zeros((*self.counts.shape[:-1], len(bins)), np.int64)
        counts[..., places[0]] += self.counts
        counts[..., places[1]] += other.counts
        return Histogram(self.layout, bins, counts, np.minimum(self.min, other.min), np.maximum(self.max, other.max))

    # --- stacks -----------------------------------------------------------------------------------

    def total(self) -> Histogram:
        """The sum of a stack."""
        low, high = self.min.min(0), self.max.max(0)
        return Histogram(self.layout, self.bins, self.counts.sum(0), low, high, (self, Histogram.total))

    def pick(self, members: NDArray[np.bool_]) -> Picked:
        """A stack whose s-th member is the sum of those in row s of members [S, K]."""
        return Picked(self, members)

    def leave_one_out(self) -> Histogram:
        """A stack whose k-th member is the sum of all others but the k-th."""
        folds = len(self.counts)
        rest = ~np.eye(folds, dtype=bool)
        low = np.array([self.min[keep].min(initial=np.inf) for keep in rest])
        high = np.array([self.max[keep].max(initial=-np.inf) for keep in rest])
        counts = self.counts.sum(0) - self.counts
        return Histogram(self.layout, self.bins, counts, low, high, (self, Histogram.leave_one_out))

    def cumulative(self) -> Histogram:
        """A stack whose k-th member is the sum of the first k+1."""
        return Histogram(
            self.layout,
            self.bins,
            self.counts.cumsum(0),
            np.minimum.accumulate(self.min),
            np.maximum.accumulate(self.max),
            (self, Histogram.cumulative),
        )

    def head(self, k: int) -> Histogram:
        """The stack of the first k."""
        origin = (self, lambda stack: stack.head(k))
        return Histogram(self.layout, self.bins, self.counts[:k], self.min[:k], self.max[:k], origin)

    # --- what is read off -------------------------------------------------------------------------

    @property
    def n(self) -> Ints:
        """Number of values observed, int64 [] or [K]."""
        return np.asarray(self.counts.sum(-1))

    @property
    def absmax(self) -> Floats:
        """The largest magnitude observed, exact, float64 [] or [K]. NaN where empty."""
        return np.where(self.min > self.max, np.nan, np.maximum(np.abs(self.min), np.abs(self.max)))

    @cached_property
    def values(self) -> Floats:
        """Signed representative of each occupied bin, float64 [m]: the value itself in 16-bit layouts, the
        middle of the bin in float32 (0 in the bin below the window, half-way to the extreme above it); never
        beyond the extremes."""
        index = self.bins & (SIGN - 1)
        low, high = self.layout.edges[index], self.layout.edges[index + (not self.layout.exact)]
        if not self.layout.exact:
            low = np.where(index == 0, 0.0, low)
            high = np.where(index == 0, 0.0, high)
            top = index == self.layout.top
            high = np.where(top, np.maximum(low, np.max(self.absmax)), high)
        magnitude = (low + high) / 2
        signed = np.where(self.bins & SIGN, -magnitude, magnitude)
        return np.asarray(np.clip(signed, np.min(self.min), np.max(self.max)))

    @cached_property
    def ascending(self) -> NDArray[np.intp]:
        """The order of the bins by value, [m]: codes of negative values fall as the values rise."""
        split = int(np.searchsorted(self.bins, SIGN))
        return np.concatenate([np.arange(len(self.bins) - 1, split - 1, -1), np.arange(split)])

    @cached_property
    def sums(self) -> Sums:
        """Running sums over the values of a stack."""
        return Sums(self.values[self.ascending], self.counts[:, self.ascending].astype(np.float64))

    @cached_property
    def folded_sums(self) -> Sums:
        """Running sums over the magnitudes of the values of a stack."""
        magnitudes = np.abs(self.values)
        order = np.argsort(magnitudes, kind="stable")
        return Sums(magnitudes[order], self.counts[:, order].astype(np.float64))

    @property
    def outside(self) -> tuple[Ints, Ints]:
        """How many values fell into the end bins, below and above the window of float32: upper bounds of
        what lies outside it. Zero in 16-bit layouts."""
        zero = np.zeros(self.counts.shape[:-1], np.int64)
        if self.layout.exact:
            return zero, zero
        index = self.bins & (SIGN - 1)
        return self.counts[..., index == 0].sum(-1), self.counts[..., index == self.layout.top].sum(-1)

    @cached_property
    def magnitudes(self) -> Histogram:
        """The histogram of |x|: the two halves added."""
        if self._origin is not None:
            source, combine = self._origin
            return combine(source.magnitudes)
        split = int(np.searchsorted(self.bins, SIGN))
        positive, negative = self.bins[:split], self.bins[split:] - np.int32(SIGN)
        bins, places = _union([positive, negative])
        counts = np.zeros((*self.counts.shape[:-1], len(bins)), np.int64)
        counts[..., places[0]] += self.counts[..., :split]
        counts[..., places[1]] += self.counts[..., split:]
        return Histogram(self.layout, bins, counts, np.zeros_like(self.absmax), self.absmax)

    def abs_quantile(self, alpha: float) -> Floats:
        """The alpha-quantile of |x|, float64 [] or [K]; the convention is the module's. NaN where empty."""
        return self.magnitudes.quantile(alpha)

    def quantile(self, q: float) -> Floats:
        """The q-quantile of the signed values, float64 [] or [K]; the convention is the module's."""
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"a quantile lies in [0, 1], not {q}")
        if q in self._quantiles:
            return self._quantiles[q]
        low, high, cumulative = self._cumulative
        found = np.empty(self.counts.shape[:-1])
        for k in np.ndindex(found.shape):
            ends = float(self.min[k]), float(self.max[k])
            found[k] = _quantile_of(self.layout.exact, cumulative[k], low, high, *ends, q)
        self._quantiles[q] = found
        return found

    @cached_property
    def _quantiles(self) -> dict[float, Floats]:
        """Those looked up already: every format asks for the same ones."""
        return {}

    @cached_property
    def _cumulative(self) -> tuple[Floats, Floats, Ints]:
        """Ends of the bins in ascending order, and the counts up to and including each."""
        bins = self.bins[self.ascending]
        index = bins & (SIGN - 1)
        near, far = self.layout.edges[index], self.layout.edges[index + (not self.layout.exact)]
        low, high = np.where(bins & SIGN, -far, near), np.where(bins & SIGN, -near, far)
        return low, high, self.counts[..., self.ascending].cumsum(-1)


class Picked(Histogram):
    """Sums of members of a stack, summed only where a whole histogram is asked for: a quantile of many sums takes
    a bisection over running sums that the stack keeps, and no sum at all."""

    _stack: Histogram
    _members: NDArray[np.bool_]

    def __init__(self, stack: Histogram, members: NDArray[np.bool_]) -> None:
        low = np.where(members, stack.min, np.inf).min(1)
        high = np.where(members, stack.max, -np.inf).max(1)
        values = {"layout": stack.layout, "bins": stack.bins, "min": low, "max": high}
        vars(self).update(values, _origin=(stack, lambda s: s.pick(members)), _stack=stack, _members=members)

    @cached_property
    def counts(self) -> Ints:
        return (self._members.astype(np.float64) @ self._stack.counts).astype(np.int64)  # exact below 2^53

    @property
    def n(self) -> Ints:
        return np.asarray(self._members @ self._stack.n)

    def quantile(self, q: float) -> Floats:
        """As of any stack, bit for bit."""
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"a quantile lies in [0, 1], not {q}")
        low, high, cumulative = self._stack._cumulative
        n, members = self.n, self._members

        def upto(bins: NDArray[np.intp]) -> Ints:
            """Of each sum, the counts up to and including a bin; 0 before the first."""
            return np.asarray(np.where(members & (bins >= 0)[:, None], cumulative[:, bins].T, 0).sum(1))

        def order_statistic(rank: Ints) -> Floats:
            first, last = np.zeros(len(n), np.intp), np.full(len(n), max(cumulative.shape[1] - 1, 0))
            while np.any(first < last):  # the first bin that more than `rank` values lie in or below
                middle = (first + last) // 2
                above = (upto(middle) > rank) | (first == last)
                first, last = np.where(above, first, middle + 1), np.where(above, middle, last)
            start, end = np.maximum(low[first], self.min), np.minimum(high[first], self.max)
            before = upto(first - 1)
            inside = start + (end - start) * ((rank + 0.5 - before) / (upto(first) - before))
            return np.where(rank == n - 1, self.max, np.where(rank == 0, start, inside))

        if not len(self.bins):
            return np.full(len(n), np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):  # an empty sum
            rank = (n - 1) * q
            below, above = (order_statistic(bound(rank).astype(np.int64)) for bound in (np.floor, np.ceil))
            found = above if self.layout.exact else below + (above - below) * (rank - np.floor(rank))
        return np.where(n > 0, found, np.nan)


def _check_layouts(parts: list[Histogram]) -> None:
    layouts = {str(p.layout) for p in parts}
    if len(layouts) != 1:
        raise ValueError(f"cannot merge histograms of different layouts: {', '.join(sorted(layouts))}")


def _union(parts: list[NDArray[np.int32]]) -> tuple[NDArray[np.int32], list[NDArray[np.intp]]]:
    """All bins that occur in some part, ascending, and where each part's bins stand among them."""
    occupied = np.zeros(BINS, bool)
    for part in parts:
        occupied[part] = True
    place = np.cumsum(occupied) - 1
    return np.flatnonzero(occupied).astype(np.int32), [place[part] for part in parts]


def _quantile_of(
    exact: bool, cumulative: Ints, low: Floats, high: Floats, bottom: float, top: float, q: float
) -> float:
    """Quantile of values spread evenly over bins [low, high) in ascending order, within [bottom, top]."""
    n = int(cumulative[-1]) if len(cumulative) else 0
    if n == 0:
        return float("nan")
    rank = (n - 1) * q

    def order_statistic(r: int) -> float:
        if r == n - 1:
            return top
        b = int(np.searchsorted(cumulative, r, side="right"))
        start, end = max(float(low[b]), bottom), min(float(high[b]), top)
        if r == 0:
            return start
        before = int(cumulative[b - 1]) if b else 0
        return start + (end - start) * ((r + 0.5 - before) / (int(cumulative[b]) - before))

    above = order_statistic(int(np.ceil(rank)))
    if exact:
        return above
    below = order_statistic(int(np.floor(rank)))
    return below + (above - below) * float(rank - np.floor(rank))
