"""Statistics of one site of one layer: of all folds together, for the answer, and of each, for its error.

In 16 bits both are exact. Where float32 was counted, all folds together, the answer, are kept in fine bins (`pooled`),
single ones in bins four times as wide, which takes a third of the memory; inside a wide bin a fold is taken to be
distributed as all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweep.quantization.fisher import FisherHistogram
from sweep.quantization.fold_sums import FoldSums
from sweep.quantization.histogram import Histogram


def leave_one_out(folds: int) -> NDArray[np.bool_]:
    """All folds, then all but the first, all but the second, … (what a jackknife takes), bool [1 + K, K]."""
    return np.concatenate([np.ones((1, folds), bool), ~np.eye(folds, dtype=bool)])


@dataclass(frozen=True, eq=False)
class Subsets:
    """S sets of the K folds of a site. members: bool [S, K]. observed: what each set holds."""

    members: NDArray[np.bool_]
    observed: FoldSums


@dataclass(frozen=True, eq=False)
class SiteStatistics:
    """Everything observed at one site of one layer, fold by fold.

    folds: the fold numbers present, int32 [K]; samples: how many texts each holds, int64 [K].
    histogram: signed, a stack of K, in the bins of folds (`Layout.of_folds`). pooled: all folds together in bins a
    quarter as wide, a stack of one, where float32 was counted; else None, and the folds are exact.
    channel_absmax: float32 [K, C]. channel_abs_sum: float64 [K, C], the sum of |x| over texts and tokens.
    channel_text_mean_max: float32 [K, C], the largest over texts of the text's mean |x| (Quamba2's sort key).
    weight_absmax: max |w| of the conv1d slice that makes this site, None where no convolution does.
    fisher: squared gradients of the first samples of every fold, None unless asked for, and where nothing quantizes.
    text_alphas: float64 [A], empty unless asked for. text_quantiles: for each fold float64 [samples, A, 3], of each
    text the alpha-quantile of |x|, the (1 - alpha)-quantile and the alpha-quantile of x (linear interpolation).
    """

    folds: NDArray[np.int32]
    samples: NDArray[np.int64]
    histogram: Histogram
    channel_absmax: NDArray[np.float32]
    channel_abs_sum: NDArray[np.float64]
    channel_text_mean_max: NDArray[np.float32]
    weight_absmax: float | None
    text_alphas: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    text_quantiles: tuple[NDArray[np.float64], ...] = ()
    pooled: Histogram | None = None
    fisher: FisherHistogram | None = None

    @property
    def total(self) -> Histogram:
        """The histogram of all folds together, in the finest bins there are."""
        return (self.pooled or self.histogram).total()

    @cached_property
    def replicates(self) -> Subsets:
        """All folds, then all but each in turn, as `leave_one_out` has them, 1 + K sets."""
        return self.subsets(leave_one_out(len(self.folds)))

    @cached_property
    def growing(self) -> Subsets:
        """The first 1, 2, … K folds, K sets."""
        return self.subsets(np.tri(len(self.folds), dtype=bool))

    @cached_property
    def sections(self) -> Subsets:
        """All folds, then each by itself, 1 + K sets."""
        folds = len(self.folds)
        return self.subsets(np.concatenate([np.ones((1, folds), bool), np.eye(folds, dtype=bool)]))

    @cached_property
    def left_out(self) -> Subsets:
        """All but the first, all but the second, …, K sets."""
        return self.subsets(leave_one_out(len(self.folds))[1:])

    @property
    def prepared_size(self) -> int:
        """Number of counts that the first reader prepares, of each fold and of all together in the finest bins, and
        that are kept for the next one, at about 24 bytes each."""
        return (len(self.folds) + 1) * len((self.pooled or self.histogram).bins)

    def unprepared(self) -> SiteStatistics:
        """A copy whose prepared counts are freed with it."""
        return replace(self, histogram=replace(self.histogram), pooled=self.pooled and replace(self.pooled))

    def subsets(self, members: NDArray[np.bool_]) -> Subsets:
        """Sets of the folds that members, bool [S, K], names."""
        if self.pooled is None:
            return Subsets(members, FoldSums(self.histogram, members))
        whole = members.all(1, keepdims=True)
        return Subsets(members, FoldSums(self._folds_and_pooled, np.hstack([members & ~whole, whole])))

    @cached_property
    def _folds_and_pooled(self) -> Histogram:
        """A stack of K + 1."""
        assert self.pooled
        folds, pooled = self.histogram.finer(self.pooled), self.pooled
        both = [np.concatenate([getattr(folds, n), getattr(pooled, n)]) for n in ("counts", "min", "max")]
        return Histogram(pooled.layout, pooled.bins, *both)

    def __add__(self, other: SiteStatistics) -> SiteStatistics:
        """The folds of both; see `merge`."""
        return SiteStatistics.merge([self, other])

    @classmethod
    def merge(cls, parts: Sequence[SiteStatistics]) -> SiteStatistics:
        """The folds of all, in ascending order.

        Raises ValueError where a fold is in two of them, or where layouts, channels or weights differ."""
        first, folds = parts[0], np.concatenate([part.folds for part in parts])
        order = np.argsort(folds)
        if (twice := folds[order][1:][np.diff(folds[order]) == 0]).size:
            raise ValueError(f"cannot merge: fold {', '.join(map(str, np.unique(twice)))} is on both sides")
        for other in parts[1:]:
            if first.channel_absmax.shape[1:] != other.channel_absmax.shape[1:]:
                raise ValueError("cannot merge: the numbers of channels differ")
            if first.weight_absmax != other.weight_absmax:
                raise ValueError("cannot merge: the convolution weights differ")
            if not np.array_equal(first.text_alphas, other.text_alphas):
                raise ValueError("cannot merge: the quantiles taken of the texts differ")
            if (first.fisher is None) != (other.fisher is None):
                raise ValueError("cannot merge: one side has no squared gradients")
        histogram = Histogram.beside([part.histogram for part in parts])
        if len({part.pooled is None for part in parts}) > 1:
            raise ValueError("cannot merge: one side has no histogram of all folds together")
        pooled, fisher = ([p for part in parts if (p := getattr(part, n))] for n in ("pooled", "fisher"))
        quantiles = [each for part in parts for each in part.text_quantiles]

        def join(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(part, name) for part in parts])[order]

        return cls(
            folds=folds[order],
            samples=join("samples"),
            histogram=histogram.take(order),
            channel_absmax=join("channel_absmax"),
            channel_abs_sum=join("channel_abs_sum"),
            channel_text_mean_max=join("channel_text_mean_max"),
            weight_absmax=first.weight_absmax,
            text_alphas=first.text_alphas,
            text_quantiles=tuple(quantiles[i] for i in order) if quantiles else (),
            pooled=Histogram.sum(pooled) if pooled else None,
            fisher=FisherHistogram.merge(fisher).take(order) if fisher else None,
        )

    def grown(self, more: SiteStatistics) -> SiteStatistics:
        """These folds with later samples added: bit for bit the result of one pass over all samples.

        more: the later samples alone, but for `channel_abs_sum` and `fisher`, which go on from this one's, since sums
        of floats depend on their order. Raises ValueError where folds are not this one's, or channels, weights or
        layouts differ."""
        rows = np.searchsorted(self.folds, more.folds)
        if not set(more.folds) <= set(self.folds):
            raise ValueError("cannot grow: a fold is not there")
        if self.channel_absmax.shape[1] != more.channel_absmax.shape[1] or self.weight_absmax != more.weight_absmax:
            raise ValueError("cannot grow: another site")

        def joined(join: Callable[..., Any], old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
            result: NDArray[Any] = old.copy()
            result[rows] = join(old[rows], new)
            return result

        quantiles = list(self.text_quantiles)
        for row, later in zip(rows, more.text_quantiles, strict=False):
            quantiles[row] = np.concatenate([quantiles[row], later])
        return replace(
            self,
            samples=joined(np.add, self.samples, more.samples),
            histogram=self.histogram + more.histogram.among(rows, len(self.folds)),
            channel_absmax=joined(np.maximum, self.channel_absmax, more.channel_absmax),
            channel_abs_sum=joined(lambda old, new: new, self.channel_abs_sum, more.channel_abs_sum),
            channel_text_mean_max=joined(np.maximum, self.channel_text_mean_max, more.channel_text_mean_max),
            text_quantiles=tuple(quantiles),
            pooled=self.pooled + more.pooled if self.pooled and more.pooled else None,
            fisher=self._grown_fisher(more),
        )

    def _grown_fisher(self, more: SiteStatistics) -> FisherHistogram | None:
        """Folds of later samples that were differentiated hold the sums of the earlier ones too."""
        if self.fisher is None or more.fisher is None:
            return self.fisher
        same = np.flatnonzero(~np.isin(self.folds, more.folds))
        order = np.argsort(np.concatenate([self.folds[same], more.folds]))
        return FisherHistogram.merge([self.fisher.take(same), more.fisher]).take(order)
