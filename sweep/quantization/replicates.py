"""Replicates of a scale, one for each fold: every standard error is computed from their scatter.

A scale is an order statistic, a maximum or the argmin of a search. Leaving out one fold of K and taking the scatter,
the jackknife, is no error of a maximum, which changes with the one fold that holds it (Miller, Biometrika 61, 1974),
nor of an argmin, which may not change at all. So each fold is asked for its own scale instead: folds are equal draws of
text, and the scatter of what they answer, s^2 over folds, is what estimates the variance of the answer of all of them,
var = rate * s^2 (sections or batches: Asmussen & Glynn, Stochastic Simulation, 2007, III.5; subsampling: Politis,
Romano & Wolf, Subsampling, 1999, chapters 2 and 8). The rate is how much of the variance of a fold is left in K folds:

* 1/K for what averages: quantiles with many values beyond them;
* K^(-2/3) for `mse`, the argmin of a loss that has kinks: such converge with the cube root of the number of values
  (Kim & Pollard, Annals of Statistics 18, 1990);
* 1 for `minmax`. Maxima are max-stable: the largest of K of them scatters as each of them does, exactly so in
  logarithms for tails that are powers, less for lighter ones (Coles, An Introduction to Statistical Modeling of
  Extreme Values, 2001, chapter 3);
* 2 for `entropy`, a coarse argmin over a grid that hangs on the maximum: twice the bound, see there;
* between them for quantiles near the end, of which r values lie beyond: var ln X_(r) of a tail that is a power goes as
  the trigamma function of 1 + r (Rényi's representation), here 1 / (r + 6 / pi^2), right at both ends. Values far out
  come in clusters, one token has many: r counts clusters of CLUSTER values;
* sum w_i^2 * texts / K for a weighted mean of texts, `percentile_ema`.

A replicate k is the answer of all folds, moved as leaving out fold k moves the mean over folds of ln q:
t_k = t exp(sqrt(K rate) (mean of ln q without k - mean of ln q)). The jackknife's formula then gives rate * s^2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sweep.quantization.types import Floats

SMALLEST = 6 / np.pi**2  # 1 / trigamma(1)
CLUSTER = 4  # values beyond a high quantile that come together


def rate_of_quantile(beyond: float, folds: int) -> float:
    """The share of a fold's variance that is left in all folds, of whose values so many lie beyond the quantile."""
    clusters = beyond / CLUSTER
    return float((clusters / folds + SMALLEST) / (clusters + SMALLEST))


def move(whole: Floats, folds: Floats, rate: Floats | float, factor: float = 1.0) -> Floats:
    """The replicates, float64 [… , K], of answers [… ] whose folds gave folds [… , K]; NaN for fewer than two folds.

    rate: see above, [… ] or one. factor: what errors are multiplied by where folds share text (see `Tokens`).
    Multiplies where all folds have one sign, adds where they have not, or are zero."""
    count = folds.shape[-1]
    if count < 2 or not np.isfinite(factor):
        return np.full(folds.shape, np.nan)
    one_sign = (np.abs(np.sign(folds).sum(-1, keepdims=True)) == count) & (whole[..., None] != 0)
    values = np.where(one_sign, np.log(np.where(folds == 0, 1.0, np.abs(folds))), folds)
    without = (values.mean(-1, keepdims=True) - values) / (count - 1)
    moved = factor * np.sqrt(count * np.asarray(rate))[..., None] * without
    return np.asarray(np.where(one_sign, whole[..., None] * np.exp(moved), whole[..., None] + moved))


def error_factor(samples: NDArray[np.int64], folds: int) -> float:
    """The factor for errors from folds where samples repeat: 1 where none does, inf where all folds hold the same.

    samples: the number of the distinct one that each is, [N]; sample i is in fold i mod K. A mean over samples has the
    variance sum_d a_d^2 s^2, a_d the share of the distinct sample d; folds tell of it, in expectation,
    sum_k sum_d (a_kd - mean_k a_kd)^2 s^2 / (K (K - 1)), a_kd its share of fold k: copies in several folds make them
    alike. Without copies, and folds of one size, both are s^2 / N."""
    if len(np.unique(samples)) == len(samples) or folds < 2:
        return 1.0
    shares = np.zeros((folds, int(samples.max()) + 1))
    np.add.at(shares, (np.arange(len(samples)) % folds, samples), 1.0)
    shares /= shares.sum(1, keepdims=True)
    told = np.square(shares - shares.mean(0)).sum() / (folds * (folds - 1))
    true = np.square(shares.mean(0)).sum()
    return float(np.sqrt(true / told)) if told > 1e-12 * true else float("inf")
