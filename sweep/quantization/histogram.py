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
  (see `outside`), but min and max are exact always. All this holds for all folds of a calibration together; single
  ones are kept in bins of four such, for errors and for what fewer folds would have answered (see `SiteStatistics`).
* Counts are whole numbers below 2^63 and additive. Merging is addition, hence associative, commutative and
  independent of the order of observation; layouts that differ do not merge.
* Stochastic dominance survives: if |y| <= |x| value by value, no quantile of |y| exceeds that of |x|,
  because bins follow each other as values do, and quantiles as bins do.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sweep.quantization.bins import BINS, SIGN, Layout
from sweep.quantization.types import Bins, Counts, Floats, Ints

SILU_MINIMUM = -0.2784645427610738  # of x / (1 + exp(-x)), at x = -1.2784645427610738
SILU_REACHED = 1e-5  # how near to it the least of many values is


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
        bins = np.flatnonzero(dense)
        return cls(layout, bins.astype(np.uint16), short(dense[bins]), np.array(low), np.array(high))

    @classmethod
    def stack(cls, parts: list[Histogram]) -> Histogram:
        """K single histograms as one stack. Raises ValueError if their layouts differ."""
        _check_layouts(parts)
        bins, places = union([p.bins for p in parts])
        counts = np.zeros((len(parts), len(bins)), np.int64)
        for row, place, part in zip(counts, places, parts, strict=True):
            row[place] = part.counts
        low = np.array([p.min for p in parts], np.float64)
        high = np.array([p.max for p in parts], np.float64)
        return cls(parts[0].layout, bins, short(counts), low, high)

    def beside(self, other: Histogram) -> Histogram:
        """The members of two stacks as one. Raises ValueError if layouts differ."""
        _check_layouts([self, other])
        bins, places = union([self.bins, other.bins])
        own = len(self.counts)
        kind = np.result_type(self.counts, other.counts)
        counts = np.zeros((own + len(other.counts), len(bins)), kind)
        counts[:own, places[0]], counts[own:, places[1]] = self.counts, other.counts
        low, high = np.concatenate([self.min, other.min]), np.concatenate([self.max, other.max])
        return Histogram(self.layout, bins, counts, low, high)

    def __add__(self, other: Histogram) -> Histogram:
        """The histogram of both sets of values. Raises ValueError if layouts or stack sizes differ."""
        if self.counts.shape[:-1] != other.counts.shape[:-1]:
            raise ValueError(f"cannot merge stacks of {self.counts.shape[:-1]} and {other.counts.shape[:-1]}")
        _check_layouts([self, other])
        bins, places = union([self.bins, other.bins])
        counts = np.zeros((*self.counts.shape[:-1], len(bins)), np.int64)
        counts[..., places[0]] += self.counts
        counts[..., places[1]] += other.counts
        low, high = np.minimum(self.min, other.min), np.maximum(self.max, other.max)
        return Histogram(self.layout, bins, short(counts), low, high)

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
        """The same values in the bins of a layout each of which holds several of this one's."""
        if layout == self.layout:
            return self
        assert layout.width > self.layout.width > 0
        starts = self.bins // layout.width * layout.width
        first = np.flatnonzero(np.diff(starts, prepend=-1))
        counts = np.add.reduceat(self.counts, first, axis=-1, dtype=np.int64) if len(first) else self.counts
        return Histogram(layout, starts[first], short(counts), self.min, self.max)

    def finer(self, pooled: Histogram) -> Histogram:
        """The stack in the bins of `pooled`, which holds all of it together: what lies in one bin is shared out among
        those of `pooled` in it, in proportion to their counts. Each member keeps its number of values in every bin,
        and whole numbers everywhere."""
        starts = pooled.bins // self.layout.width * self.layout.width
        begins = np.diff(starts, prepend=-1) != 0
        assert np.array_equal(starts[begins], self.bins)
        place = np.cumsum(begins) - 1
        share = pooled.counts[0] / np.add.reduceat(pooled.counts[0], np.flatnonzero(begins), dtype=np.int64)[place]
        upto = self.counts.take(place, 1) * share
        np.cumsum(upto, axis=1, out=upto)
        upto += 0.5
        counts = upto.astype(np.int64)
        counts[:, 1:] -= counts[:, :-1].copy()
        return Histogram(pooled.layout, pooled.bins, counts, self.min, self.max)

    def pick(self, members: NDArray[np.bool_]) -> Picked:
        """A stack whose s-th member is the sum of those in row s of members [S, K]."""
        return Picked(self, members)

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
        low, high = self.layout.edges[index], self.layout.edges[index + self.layout.width]
        if not self.layout.exact:
            low = np.where(index == 0, 0.0, low)
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
        split = int(np.searchsorted(self.bins, SIGN))
        positive, negative = self.bins[:split], self.bins[split:] - np.uint16(SIGN)
        bins, places = union([positive, negative])
        counts = np.zeros((*self.counts.shape[:-1], len(bins)), np.int64)
        counts[..., places[0]] += self.counts[..., :split]
        counts[..., places[1]] += self.counts[..., split:]
        empty = self.min > self.max
        low, high = np.where(empty, np.inf, 0.0), np.where(empty, -np.inf, self.absmax)
        return Histogram(self.layout, bins, counts, low, high)

    def abs_quantile(self, alpha: float) -> Floats:
        """The alpha-quantile of |x|, float64 [] or [K]; the convention is the module's. NaN where empty."""
        return self.magnitudes.quantile(alpha)

    def quantile(self, q: float) -> Floats:
        """The q-quantile of the signed values, float64 [] or [K]; the convention is the module's."""
        stack = self if self.counts.ndim == 2 else self._alone
        return stack.pick(np.eye(len(stack.counts), dtype=bool)).quantile(q).reshape(self.min.shape)

    def weigh(self, weights: Floats) -> Floats:
        """Sums over the values of what each weighs, float64 [W, K]; weights [W, m] by `ascending`."""
        split = int(np.searchsorted(self.bins, SIGN))
        ordered = np.concatenate([self.counts[:, split:][:, ::-1], self.counts[:, :split]], 1, dtype=np.float64)
        return np.asarray(weights @ ordered.T)

    def under(self, ends: Floats) -> Ints:
        """How many values lie below each of some ascending ends [E], those of a bin spread evenly over it and rounded
        to whole numbers, int64 [K, E]; none below the least, all below what reaches the largest."""
        low, high = self._ends
        start, stop = np.clip([low, high], np.min(self.min), np.max(self.max))
        place = np.minimum(np.searchsorted(stop, ends), max(len(stop) - 1, 0))
        if not len(stop):
            return np.zeros((len(self.counts), len(ends)), np.int64)
        width = stop[place] - start[place]
        beyond = (ends > start[place]).astype(np.float64)
        share = np.divide(ends - start[place], width, out=beyond, where=width > 0).clip(0, 1)
        share = np.where(_pile(low[place], high[place], np.asarray(np.min(self.min))), np.sqrt(share), share)
        before, after = (np.asarray(self._cumulative.take(row, 0)) for row in (place, place + 1))
        inside = np.floor(np.expand_dims(share, 1) * (after - before) + 0.5).astype(np.int64)
        return np.asarray((before + inside).T)

    def between(self, places: NDArray[np.intp]) -> Ints:
        """How many values lie in the bins places[i] … places[i + 1] - 1 of `ascending`, int64 [K, i]."""
        return np.asarray(np.diff(self._cumulative.take(places, 0), axis=0).T)

    @cached_property
    def _alone(self) -> Histogram:
        """A single histogram as a stack of one."""
        return Histogram(self.layout, self.bins, self.counts[None], self.min[None], self.max[None])

    @cached_property
    def _ends(self) -> tuple[Floats, Floats]:
        """Ends of the bins, in ascending order."""
        bins = self.bins[self.ascending]
        index = bins & (SIGN - 1)
        near, far = self.layout.edges[index], self.layout.edges[index + self.layout.width]
        return np.where(bins & SIGN, -far, near), np.where(bins & SIGN, -near, far)

    @cached_property
    def _cumulative(self) -> Ints:
        """How many values lie below each bin, in ascending order, and in all, int64 [m + 1, K]."""
        found = np.zeros((len(self.bins) + 1, len(self.counts)), np.int64)
        np.cumsum(self.counts.T[self.ascending], axis=0, out=found[1:])
        return found


class Picked(Histogram):
    """Sums of members of a stack, summed only where whole histograms are asked for: everything else is read off
    the stack and then added, and a quantile takes a bisection over the running counts of the stack."""

    members: NDArray[np.bool_]  # [S, K]
    _stack: Histogram

    def __init__(self, stack: Histogram, members: NDArray[np.bool_]) -> None:
        low = np.where(members, stack.min, np.inf).min(1)
        high = np.where(members, stack.max, -np.inf).max(1)
        vars(self).update(layout=stack.layout, bins=stack.bins, min=low, max=high, members=members, _stack=stack)

    @property
    def counts(self) -> Ints:
        return (self.members.astype(np.float64) @ self._stack.counts).astype(np.int64)  # exact below 2^53

    @cached_property
    def n(self) -> Ints:
        return np.asarray(self.members @ self._stack.n)

    @property
    def ascending(self) -> NDArray[np.intp]:
        return self._stack.ascending

    @property
    def values(self) -> Floats:
        return self._stack.values

    @cached_property
    def magnitudes(self) -> Histogram:
        return self._stack.magnitudes.pick(self.members)

    def weigh(self, weights: Floats) -> Floats:
        return np.asarray(self._stack.weigh(weights) @ self.members.T)

    def under(self, ends: Floats) -> Ints:
        return np.asarray(self.members @ self._stack.under(ends))

    def between(self, places: NDArray[np.intp]) -> Ints:
        return np.asarray(self.members @ self._stack.between(places))

    @cached_property
    def _quantiles(self) -> dict[float, Floats]:
        """Those looked up already: every format asks for the same ones."""
        return {}

    def quantile(self, q: float) -> Floats:
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"a quantile lies in [0, 1], not {q}")
        if q not in self._quantiles:
            self._quantiles[q] = self._quantile(q)
        return self._quantiles[q]

    def _quantile(self, q: float) -> Floats:
        if not len(self.bins):
            return np.full(len(self.n), np.nan)
        rank = np.maximum(self.n - 1, 0) * q
        if self.layout.exact:
            found = self._order_statistics(np.ceil(rank).astype(np.int64)[None])[0]
        else:
            below = np.floor(rank).astype(np.int64)
            lower, upper = self._order_statistics(np.stack([below, np.ceil(rank).astype(np.int64)]))
            with np.errstate(invalid="ignore"):  # an empty member
                found = lower + (upper - lower) * (rank - below)
        return np.where(self.n > 0, found, np.nan)

    def _order_statistics(self, rank: Ints) -> Floats:
        """The values of rank [R, S] of the members, where values are spread evenly over their bins."""
        running = self._stack._cumulative
        members, bins = self.members.T.astype(np.int64), len(self.bins)

        def below(bin: NDArray[np.intp]) -> Ints:
            return np.asarray(np.einsum("rs...k,ks->rs...", running.take(np.minimum(bin, bins), 0), members))

        first = np.zeros(rank.shape, np.intp)  # the bin that holds it, digit by digit: four look-ups for 65,536 bins
        for step in (4096, 256, 16, 1):
            probes = first[..., None] + step * np.arange(1, 16)
            first += step * (below(probes) <= rank[..., None]).sum(-1)
        first = np.minimum(first, bins - 1)  # of an empty member
        low, high = self._stack._ends
        start, end = (np.clip(ends[first], self.min, self.max) for ends in (low, high))
        before = below(first)
        with np.errstate(invalid="ignore", divide="ignore"):  # an empty member
            share = (rank + 0.5 - before) / (below(first + 1) - before)
            if not self.layout.exact:
                share = np.where(_pile(low[first], high[first], self.min), np.square(share), share)
            inside = start + (end - start) * share
        return np.where(rank == self.n - 1, self.max, np.where(rank == 0, start, inside))


def _pile(low: Floats, high: Floats, least: Floats) -> NDArray[np.bool_]:
    """Whether bins from `low` to `high` hold SiLU's minimum and nothing less: there the values pile up, and the share
    of them below a point grows as the square root of its distance from the minimum."""
    return (np.abs(least - SILU_MINIMUM) < SILU_REACHED) & (low <= SILU_MINIMUM) & (high > SILU_MINIMUM)


def _check_layouts(parts: list[Histogram]) -> None:
    layouts = {str(p.layout) for p in parts}
    if len(layouts) != 1:
        raise ValueError(f"cannot merge histograms of different layouts: {', '.join(sorted(layouts))}")


def short(counts: Counts) -> Counts:
    """The same in 32 bits if they fit."""
    return counts.astype(np.int32) if counts.max(initial=0) <= np.iinfo(np.int32).max else counts


def union(parts: list[Bins]) -> tuple[Bins, list[NDArray[np.intp]]]:
    """All bins that occur in some part, ascending, and where each part's bins stand among them."""
    occupied = np.zeros(BINS, bool)
    for part in parts:
        occupied[part] = True
    place = np.cumsum(occupied) - 1
    return np.flatnonzero(occupied).astype(np.uint16), [place[part] for part in parts]
