"""A signed histogram whose bins are the bit patterns of floating-point values.

The bit pattern of a float, read as an integer, is already a logarithmic bin index: it grows with the
magnitude, and its sign is the top bit. Every layout here has 65,536 bin codes: bit 15 is the sign, the 15
bits below it are a magnitude index.

Guarantees
* `bfloat16`, `float16`: one bin per representable value. Counts lose nothing: every quantile is an order
  statistic of the values observed, `numpy.quantile(..., method="higher")`, bit for bit.
* `float32`: a value is counted in the bin of the float16 that it rounds to, which is one instruction of any
  processor and gives bins of 10 mantissa bits over [2^-14, 65520), evenly spaced ones below. A quantile follows
  `numpy.quantile(..., method="linear")` with each order statistic interpolated inside its bin, so it is off
  by at most one bin: 2^-10 of its magnitude (0.098 %) or, below 2^-14, 2^-24; in practice by far less. What
  rounds to zero or to infinity is counted in the two end bins of each sign; there the bound does not hold
  (see `sweep.quantization.window`), but min and max are exact always. All this holds for all folds of a calibration
  together; single ones are kept in bins of four such, for errors and for what fewer folds would have answered (see
  `SiteStatistics`).
* Counts are whole numbers below 2^63 and additive. Merging is addition, hence associative, commutative and
  independent of the order of observation; layouts that differ do not merge.
* Stochastic dominance survives: if |y| <= |x| value by value, no quantile of |y| exceeds that of |x|,
  because bins follow each other as values do, and quantiles as bins do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweep.quantization.bins import SIGN, Layout, union
from sweep.quantization.types import Bins, Counts, Floats, Ints


@dataclass(frozen=True, eq=False)
class Histogram:
    """One histogram, or a stack of K over the same bins (for example the folds of a calibration).

    bins: uint16 [m], strictly ascending codes of the occupied bins. counts: [m] or [K, m], int64, or int32 where they
    fit and are kept for long; whatever is summed of them is int64. min, max: float64 [] or [K], the exact extremes of
    the values observed (+inf, -inf where there are none).
    """

    layout: Layout
    bins: Bins
    counts: Counts
    min: Floats
    max: Floats

    @classmethod
    def from_dense(cls, layout: Layout, dense: Ints, low: float, high: float) -> Histogram:
        """From counts of all 65,536 codes, int64 [65536]."""
        bins = np.flatnonzero(dense != 0)  # of whole numbers by themselves it takes three times as long
        return cls(layout, bins.astype(np.uint16), short(dense[bins]), np.array(low, float), np.array(high, float))

    @classmethod
    def stack(cls, parts: Sequence[Histogram]) -> Histogram:
        """K single histograms as one stack. Raises ValueError if their layouts differ."""
        return cls.beside([cls(p.layout, p.bins, p.counts[None], p.min[None], p.max[None]) for p in parts])

    @classmethod
    def beside(cls, parts: Sequence[Histogram]) -> Histogram:
        """The members of several stacks as one. Raises ValueError if layouts differ."""
        if len(parts) == 1:
            return replace(parts[0], counts=short(parts[0].counts))
        _check_layouts(parts)
        bins, places = union([p.bins for p in parts])
        ends = np.cumsum([len(p.counts) for p in parts])
        counts = np.zeros((ends[-1], len(bins)), np.result_type(*(p.counts for p in parts)))
        for end, place, part in zip(ends, places, parts, strict=True):
            counts[end - len(part.counts) : end, place] = part.counts
        low, high = np.concatenate([p.min for p in parts]), np.concatenate([p.max for p in parts])
        return cls(parts[0].layout, bins, short(counts), low, high)

    @classmethod
    def sum(cls, parts: Sequence[Histogram]) -> Histogram:
        """The histogram of all values, of stacks member by member. Raises ValueError if layouts or sizes differ."""
        if len(shapes := dict.fromkeys(p.counts.shape[:-1] for p in parts)) > 1:
            raise ValueError(f"cannot merge stacks of {' and '.join(map(str, shapes))}")
        _check_layouts(parts)
        bins, places = union([p.bins for p in parts])
        counts = np.zeros((*parts[0].counts.shape[:-1], len(bins)), np.int64)
        for place, part in zip(places, parts, strict=True):
            counts[..., place if len(place) < len(bins) else slice(None)] += part.counts
        low, high = (reduce(f, [getattr(p, n) for p in parts]) for f, n in ((np.minimum, "min"), (np.maximum, "max")))
        return cls(parts[0].layout, bins, short(counts), low, high)

    def __add__(self, other: Histogram) -> Histogram:
        """The histogram of both sets of values; see `sum`."""
        return Histogram.sum([self, other])

    def take(self, order: NDArray[np.intp]) -> Histogram:
        """The members of a stack in another order."""
        if np.array_equal(order, np.arange(len(self.counts))):
            return self
        return Histogram(self.layout, self.bins, self.counts[order], self.min[order], self.max[order])

    def among(self, rows: NDArray[np.intp], size: int) -> Histogram:
        """The members of a stack as those of these rows of a larger one, whose other members hold nothing."""
        counts = np.zeros((size, len(self.bins)), self.counts.dtype)
        low, high = np.full(size, np.inf), np.full(size, -np.inf)
        counts[rows], low[rows], high[rows] = self.counts, self.min, self.max
        return Histogram(self.layout, self.bins, counts, low, high)

    def total(self) -> Histogram:
        """The sum of a stack."""
        return Histogram(self.layout, self.bins, self.counts.sum(0), self.min.min(0), self.max.max(0))

    def coarser(self, layout: Layout) -> Histogram:
        """The histogram in the wider bins of a layout, each of which holds several of this one's."""
        if layout == self.layout:
            return self
        assert layout.width > self.layout.width > 0
        starts = self.bins // layout.width * layout.width
        first = np.flatnonzero(np.diff(starts, prepend=-1))
        counts = np.add.reduceat(self.counts, first, axis=-1, dtype=np.int64)
        return Histogram(layout, starts[first], short(counts), self.min, self.max)

    def finer(self, pooled: Histogram) -> Histogram:
        """The stack in the bins of `pooled`, which holds all of it together: what lies in one bin is shared out among
        those of `pooled` in it, in proportion to their counts. Each member keeps its number of values in every bin,
        and whole numbers everywhere."""
        starts = pooled.bins // self.layout.width * self.layout.width
        begins = np.diff(starts, prepend=-1) != 0
        assert np.array_equal(starts[begins], self.bins)
        place = np.cumsum(begins, dtype=np.intp) - 1
        share = pooled.counts[0] / np.add.reduceat(pooled.counts[0], np.flatnonzero(begins), dtype=np.int64)[place]
        upto = self.counts.take(place, 1) * share
        np.cumsum(upto, axis=1, out=upto)
        upto += 0.5
        counts = upto.astype(np.int64)
        counts[:, 1:] -= counts[:, :-1].copy()
        return Histogram(pooled.layout, pooled.bins, counts, self.min, self.max)

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
        low, high = self.layout.edges[index], self.layout.edges[index + self.layout.width]
        if not self.layout.exact:
            high = np.where(index == 0, 0.0, high)
            top = index == self.layout.top
            high = np.where(top, np.maximum(low, np.maximum(-self.min, self.max).max()), high)
        magnitude = (low + high) / 2
        signed = np.where(self.bins & SIGN, -magnitude, magnitude)
        return np.asarray(np.clip(signed, np.min(self.min), np.max(self.max)))

    @cached_property
    def ascending(self) -> NDArray[np.intp]:
        """The order of the bins by value, [m]: codes of negative values fall as the values rise."""
        split = int(np.searchsorted(self.bins, SIGN))
        return np.concatenate([np.arange(len(self.bins) - 1, split - 1, -1), np.arange(split)])

    @cached_property
    def magnitudes(self) -> Histogram:
        """The histogram of |x|: the two halves added."""
        split = int(np.searchsorted(self.bins, SIGN))
        positive, negative = self.bins[:split], self.bins[split:] - np.uint16(SIGN)
        bins, places = union([positive, negative])
        of = np.full((2, len(bins)), len(self.bins))  # where the counts of each sign lie; one more bin holds nothing
        of[0, places[0]], of[1, places[1]] = np.arange(split), np.arange(split, len(self.bins))
        padded = np.append(self.counts, np.zeros((*self.counts.shape[:-1], 1), np.int64), axis=-1)
        counts = padded.take(of[0], -1) + padded.take(of[1], -1)
        empty = self.min > self.max
        low, high = np.where(empty, np.inf, 0.0), np.where(empty, -np.inf, self.absmax)
        return Histogram(self.layout, bins, counts, low, high)

    @cached_property
    def ends_of_bins(self) -> tuple[Floats, Floats]:
        """The lower and the upper end of each bin, in ascending order, float64 [m] each."""
        bins = self.bins[self.ascending]
        index = bins & (SIGN - 1)
        near, far = self.layout.edges[index], self.layout.edges[index + self.layout.width]
        return np.where(bins & SIGN, -far, near), np.where(bins & SIGN, -near, far)

    @cached_property
    def reached(self) -> Floats:
        """`ends_of_bins`, as far as the values of a stack reach, float64 [2, m]."""
        return np.asarray(np.clip(self.ends_of_bins, np.min(self.min), np.max(self.max)))

    @cached_property
    def cumulative(self) -> Ints:
        """Number of values below each bin, in ascending order, and in all, int64 [m + 1, K]."""
        below = np.empty((len(self.counts), len(self.bins) + 1), np.int64)
        below[:, 0] = 0
        np.cumsum(self.ordered(np.int64), axis=1, out=below[:, 1:])
        return np.ascontiguousarray(below.T)

    def ordered(self, dtype: type[np.int64 | np.float64]) -> NDArray[Any]:
        """The counts of a stack in ascending order of the bins, [K, m]: computed at every call, and large."""
        split = int(np.searchsorted(self.bins, SIGN))
        return np.concatenate([self.counts[:, split:][:, ::-1], self.counts[:, :split]], 1, dtype=dtype)


def _check_layouts(parts: Sequence[Histogram]) -> None:
    layouts = {str(p.layout) for p in parts}
    if len(layouts) != 1:
        raise ValueError(f"cannot merge histograms of different layouts: {', '.join(sorted(layouts))}")


def short(counts: Counts) -> Counts:
    """The counts in 32 bits if they fit, else as they are."""
    fit = counts.dtype == np.int32 or counts.max(initial=0) <= np.iinfo(np.int32).max
    return counts.astype(np.int32, copy=False) if fit else counts
