"""Methods: from what was observed to the interval that a format's codes are spread over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from sweep.quantization.formats import Format
from sweep.quantization.histogram import Histogram
from sweep.quantization.methods import entropy, mse

Floats = NDArray[np.float64]


class Method(StrEnum):
    MINMAX = "minmax"  # the extremes observed
    PERCENTILE = "percentile"  # the alpha-quantile of all magnitudes, pooled; signed, alpha and 1 - alpha
    PERCENTILE_EMA = "percentile_ema"  # Quamba's: a moving average over the texts of each text's quantile
    MSE = "mse"  # the clip of least squared error in this format
    ENTROPY = "entropy"  # the clip of least Kullback-Leibler divergence in this format

    @property
    def uses_alpha(self) -> bool:
        """Whether alpha can change this method's answer. If not, it is null in every table."""
        return self in (Method.PERCENTILE, Method.PERCENTILE_EMA)

    @property
    def searches(self) -> bool:
        """Whether it tries hundreds of clips, where others look one up."""
        return self in (Method.MSE, Method.ENTROPY)


@dataclass(frozen=True, eq=False)
class Clips:
    """For each of a stack of K, the interval [low, high] that values are clipped to, float64 [K] each.

    For a symmetric format low is -high. NaN where nothing was observed, 0 where nothing but zeros was."""

    format: Format
    low: Floats
    high: Floats

    @property
    def scale(self) -> Floats:
        """Step between codes, float64 [K]: see `Format.place`."""
        if self.format.symmetric:
            return self.high / self.format.largest
        return (np.maximum(self.high, 0) - np.minimum(self.low, 0)) / self.format.largest


def clip(histogram: Histogram, method: Method, alpha: float | None, format: Format) -> Clips:
    """The clip of each member of a stack, by any method that reads nothing but the histogram."""
    assert method is not Method.PERCENTILE_EMA, f"{method} depends on the order of the texts: see moving_average"
    if method is Method.MSE:
        return Clips(format, *mse.clip(histogram, format))
    if method is Method.ENTROPY:
        return Clips(format, *entropy.clip(histogram, format))
    if method is Method.MINMAX or alpha == 1:
        empty = np.where(histogram.n > 0, 0.0, np.nan)
        low, high, size = histogram.min + empty, histogram.max + empty, histogram.absmax + empty
        return Clips(format, -size, size) if format.symmetric else Clips(format, low, high)
    assert alpha is not None, f"{method} needs alpha"
    if format.symmetric:
        size = histogram.abs_quantile(alpha)
        return Clips(format, -size, size)
    ends = histogram.quantile(1 - alpha), histogram.quantile(alpha)
    # below alpha = 1/2 they would change places
    return Clips(format, np.minimum(*ends), np.maximum(*ends))


EMA_SIGMA = 0.01


def ema_weights(texts: int) -> Floats:
    """What each text counts in the moving average, [texts]: the first, which it starts from, most."""
    weights = EMA_SIGMA * (1 - EMA_SIGMA) ** np.arange(texts - 1, -1, -1.0)
    weights[0] /= EMA_SIGMA
    return np.asarray(weights)


def moving_average(
    folds: NDArray[np.int32],
    quantiles: Sequence[Floats],
    members: NDArray[np.bool_],
    format: Format,
) -> Clips:
    """percentile_ema of each member of members [S, K], a set of folds: `PerTensorPercentileObserver` of Quamba.

    quantiles: for each fold float64 [samples, 3], of each text the alpha-quantile of |x|, the (1 - alpha)- and the
    alpha-quantile of x. Over the texts in their original order (text i is in fold i mod K), w <- q of the first,
    then w <- w + 0.01 (q - w). Unlike there the scale has no floor of 1e-6, and the sums are in float64."""
    turn = np.concatenate([np.arange(len(q)) for q in quantiles])
    fold = np.repeat(np.arange(len(folds)), [len(q) for q in quantiles])
    order = np.lexsort((folds[fold], turn))
    values, fold = np.concatenate(list(quantiles))[order], fold[order]
    ends = np.full((len(members), 3), np.nan)
    for found, chosen in zip(ends, members, strict=True):
        texts = values[chosen[fold]]
        if len(texts):
            found[:] = ema_weights(len(texts)) @ texts
    size, low, high = ends.T
    if format.symmetric:
        return Clips(format, -size, size)
    return Clips(format, np.minimum(low, high), np.maximum(low, high))


def jackknife_error(replicates: Floats) -> Floats:
    """Standard error of a statistic, float64 […], from its K replicates, [… , K].

    sqrt((K-1)/K * sum_k (t_k - mean t)^2) (Efron & Tibshirani, An Introduction to the Bootstrap, eq. 11.5).
    NaN for fewer than two folds. `quantization.replicates` says what a replicate is, so that this holds of maxima too.
    """
    folds = replicates.shape[-1]
    if folds < 2:
        return np.full(replicates.shape[:-1], np.nan)
    centred = replicates - replicates.mean(-1, keepdims=True)
    return np.asarray(np.sqrt((folds - 1) / folds * np.square(centred).sum(-1)))
