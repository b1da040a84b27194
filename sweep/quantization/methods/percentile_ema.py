"""Quamba's moving average over the texts of each text's quantile: `PerTensorPercentileObserver`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sweep.quantization.fold_sums import FoldSums
from sweep.quantization.formats import Format
from sweep.quantization.methods.method import Ends, Method, Observed, Reads
from sweep.quantization.site_statistics import SiteStatistics
from sweep.quantization.types import Floats

SIGMA = 0.01


def clip(observed: Observed, alpha: float | None, format: Format) -> Ends:
    site, members = observed.site, observed.members
    assert site is not None, "percentile_ema depends on the order of the texts, which a histogram does not know"
    assert members is not None
    (index,) = np.flatnonzero(site.text_alphas == alpha)
    return moving_average(site.folds, [q[:, index] for q in site.text_quantiles], members, format)


def moving_average(
    folds: NDArray[np.int32],
    quantiles: Sequence[Floats],
    members: NDArray[np.bool_],
    format: Format,
) -> Ends:
    """The ends for each member of members [S, K], a set of folds.

    quantiles: for each fold float64 [samples, 3], of each text the alpha-quantile of |x|, the (1 - alpha)- and the
    alpha-quantile of x. Over the texts in their original order (text i is in fold i mod K), w <- q of the first,
    then w <- w + 0.01 (q - w). Unlike there the scale has no floor of 1e-6, and the sums are in float64."""
    turn = np.concatenate([np.arange(len(q)) for q in quantiles])
    fold = np.repeat(np.arange(len(folds)), [len(q) for q in quantiles])
    order = np.lexsort((folds[fold], turn))
    values, fold = np.concatenate(list(quantiles))[order], fold[order]
    ends = np.full((len(members), 3), np.nan)
    for end, chosen in zip(ends, members, strict=True):
        texts = values[chosen[fold]]
        if len(texts):
            end[:] = weights(len(texts)) @ texts
    size, low, high = ends.T
    if format.symmetric:
        return -size, size
    return np.minimum(low, high), np.maximum(low, high)


def weights(texts: int) -> Floats:
    """The weight of each text in the moving average, [texts]: that of the first, which it starts from, is largest."""
    each = SIGMA * (1 - SIGMA) ** np.arange(texts - 1, -1, -1.0)
    each[0] /= SIGMA
    return np.asarray(each)


def rate(site: SiteStatistics, members: NDArray[np.bool_], alpha: float | None) -> float:
    """The rate of a weighted mean of texts."""
    texts = int(site.samples[members].sum())
    return float(np.square(weights(texts)).sum()) * texts / int(members.sum())


def sections(site: SiteStatistics, alpha: float | None, format: Format) -> Ends:
    """The clips of all folds and of each by itself, [1 + K]. A fold's own clip is the plain mean over its texts, since
    the weights of the moving average depend on where in the whole row a text stands."""
    everything = np.ones((1, len(site.folds)), bool)
    whole = clip(Observed(FoldSums(site.histogram, everything), everything, site), alpha, format)
    (index,) = np.flatnonzero(site.text_alphas == alpha)
    size, low, high = np.array([q[:, index].mean(0) for q in site.text_quantiles]).T
    each = (-size, size) if format.symmetric else (np.minimum(low, high), np.maximum(low, high))
    return np.append(whole[0], each[0]), np.append(whole[1], each[1])


METHOD = Method(
    "percentile_ema",
    "Quamba's moving average over the texts of each text's alpha-quantile; costs a calibration of its own",
    clip,
    quantile=True,
    uses_alpha=True,
    reads=Reads.TEXT_QUANTILES,
    rate=rate,
    sections=sections,
)
