"""Sums of sets of the folds of a site, read without adding up their histograms.

Every number that a method or a metric takes from a histogram is a sum over its values. It is computed once for each
fold and then added for each set of folds; a quantile takes a bisection over the running counts of the folds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sweep.quantization.bins import Layout
from sweep.quantization.histogram import Histogram
from sweep.quantization.types import Bins, Floats, Ints

SILU_MINIMUM = -0.2784645427610738  # of x / (1 + exp(-x)), at x = -1.2784645427610738
SILU_REACHED = 1e-5  # how near to it the least of many values is


@dataclass(frozen=True, eq=False)
class FoldSums:
    """S sums of members of a stack of K histograms. members: bool [S, K], which of them are in each sum.

    All numbers are as those of the sums themselves would be, bit for bit where they are counts or quantiles."""

    stack: Histogram
    members: NDArray[np.bool_]

    @property
    def layout(self) -> Layout:
        """The layout of the bins."""
        return self.stack.layout

    @property
    def bins(self) -> Bins:
        """Codes of the occupied bins, as `Histogram.bins`, uint16 [m]."""
        return self.stack.bins

    @property
    def counts(self) -> Ints:
        """Number of values in each bin, int64 [S, m]: computed at every call, and large."""
        return (self.members.astype(np.float64) @ self.stack.counts).astype(np.int64)  # exact below 2^53

    @cached_property
    def n(self) -> Ints:
        """Number of values observed, int64 [S]."""
        return np.asarray(self.members @ self.stack.n)

    @cached_property
    def min(self) -> Floats:
        """The least value observed, exact, float64 [S]; +inf where there is none."""
        return np.asarray(np.where(self.members, self.stack.min, np.inf).min(1))

    @cached_property
    def max(self) -> Floats:
        """The largest value observed, exact, float64 [S]; -inf where there is none."""
        return np.asarray(np.where(self.members, self.stack.max, -np.inf).max(1))

    @property
    def absmax(self) -> Floats:
        """The largest magnitude observed, exact, float64 [S]. NaN where empty."""
        return np.where(self.min > self.max, np.nan, np.maximum(np.abs(self.min), np.abs(self.max)))

    @property
    def values(self) -> Floats:
        """The value that represents each bin, float64 [m]; see `Histogram.values`."""
        return self.stack.values

    @property
    def ascending(self) -> NDArray[np.intp]:
        """The order of the bins by value, [m]."""
        return self.stack.ascending

    @cached_property
    def magnitudes(self) -> FoldSums:
        """The same sets of folds, of the histograms of |x|."""
        return FoldSums(self.stack.magnitudes, self.members)

    def weigh(self, weights: Floats) -> Floats:
        """Sums over the values of what each weighs, float64 [W, S]; weights [W, m] by `ascending`."""
        return np.asarray(weights @ self.stack.ordered(np.float64).T @ self.members.T)

    def under(self, ends: Floats) -> Ints:
        """Number of values below each of the ends [E], in any order, int64 [S, E].

        Values of a bin are spread evenly over it, and rounded to whole numbers in every fold; none lie below the
        least, all below what reaches the largest."""
        low, high = self.stack.ends_of_bins
        if not len(low):
            return np.zeros((len(self.members), len(ends)), np.int64)
        least, (start, stop) = np.min(self.stack.min), self.stack.reached
        place = np.minimum(np.searchsorted(stop, ends), len(stop) - 1)
        width = stop[place] - start[place]
        beyond = (ends > start[place]).astype(np.float64)
        share = np.divide(ends - start[place], width, out=beyond, where=width > 0).clip(0, 1)
        share = np.where(_piles_up(low[place], high[place], np.asarray(least)), np.sqrt(share), share)
        before, after = (np.asarray(self.stack.cumulative.take(row, 0)) for row in (place, place + 1))
        inside = np.floor(np.expand_dims(share, 1) * (after - before) + 0.5).astype(np.int64)
        return np.asarray(self.members @ (before + inside).T)

    def between(self, places: NDArray[np.intp]) -> Ints:
        """Number of values in bins places[i] … places[i + 1] - 1 of `ascending`, int64 [S, i]; [Q, S, i] for Q rows of
        places."""
        return np.asarray(self.members @ np.diff(self.stack.cumulative.take(places, 0), axis=-2).swapaxes(-1, -2))

    def abs_quantile(self, alpha: float) -> Floats:
        """The alpha-quantile of |x|, float64 [S]; see `quantile`."""
        return self.magnitudes.quantile(alpha)

    def quantile(self, q: float) -> Floats:
        """The q-quantile of the signed values, float64 [S], by the convention of `sweep.quantization.histogram`.

        NaN where empty. Raises ValueError for q outside [0, 1]."""
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"a quantile lies in [0, 1], not {q}")
        if q not in self._quantiles:
            self._quantiles[q] = self._quantile(q)
        return self._quantiles[q]

    @cached_property
    def _quantiles(self) -> dict[float, Floats]:
        """Quantiles looked up already: every format asks for the same ones."""
        return {}

    def _quantile(self, q: float) -> Floats:
        if not len(self.bins):
            return np.full(len(self.n), np.nan)
        rank = np.maximum(self.n - 1, 0) * q
        if self.layout.exact:
            value = self._order_statistics(np.ceil(rank).astype(np.int64)[None])[0]
        else:
            below = np.floor(rank).astype(np.int64)
            lower, upper = self._order_statistics(np.stack([below, np.ceil(rank).astype(np.int64)]))
            with np.errstate(invalid="ignore"):  # an empty sum
                value = lower + (upper - lower) * (rank - below)
        return np.where(self.n > 0, value, np.nan)

    def _order_statistics(self, rank: Ints) -> Floats:
        """The values of rank [R, S] of the sums, where values are spread evenly over their bins."""
        running = self.stack.cumulative
        members, bins = self.members.T.astype(np.int64), len(self.bins)

        def below(bin: NDArray[np.intp]) -> Ints:
            return np.asarray(np.einsum("rs...k,ks->rs...", running.take(np.minimum(bin, bins), 0), members))

        first = np.zeros(rank.shape, np.intp)  # the bin that holds it, digit by digit: four look-ups for 65,536 bins
        for step in (4096, 256, 16, 1):
            probes = first[..., None] + step * np.arange(1, 16)
            first += step * (below(probes) <= rank[..., None]).sum(-1)
        first = np.minimum(first, bins - 1)  # of an empty sum
        low, high = self.stack.ends_of_bins
        start, end = (np.clip(ends[first], self.min, self.max) for ends in (low, high))
        before = below(first)
        with np.errstate(invalid="ignore", divide="ignore"):  # an empty sum
            share = (rank + 0.5 - before) / (below(first + 1) - before)
            if not self.layout.exact:
                share = np.where(_piles_up(low[first], high[first], self.min), np.square(share), share)
            inside = start + (end - start) * share
        return np.where(rank == self.n - 1, self.max, np.where(rank == 0, start, inside))


def each(histogram: Histogram) -> FoldSums:
    """Every member of a stack by itself, or a single histogram."""
    stack = histogram if histogram.counts.ndim == 2 else Histogram.stack([histogram])
    return FoldSums(stack, np.eye(len(stack.counts), dtype=bool))


def _piles_up(low: Floats, high: Floats, least: Floats) -> NDArray[np.bool_]:
    """True for bins from `low` to `high` that hold SiLU's minimum and nothing less: there the values pile up, and the
    share of them below a point grows as the square root of its distance from the minimum."""
    return (np.abs(least - SILU_MINIMUM) < SILU_REACHED) & (low <= SILU_MINIMUM) & (high > SILU_MINIMUM)
