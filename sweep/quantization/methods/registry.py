"""All methods there are: a new one is a module beside this one, and its line here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sweep.core.errors import allowed
from sweep.quantization.fold_sums import FoldSums
from sweep.quantization.formats import Format
from sweep.quantization.methods import entropy, loss, minmax, mse, percentile, percentile_ema
from sweep.quantization.methods.method import Method, Observed
from sweep.quantization.types import Floats

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        minmax.METHOD,
        percentile.METHOD,
        percentile_ema.METHOD,
        mse.METHOD,
        entropy.METHOD,
        loss.METHOD,
    )
}


def named(name: str) -> Method:
    """The method of that name. Raises UsageError with the names allowed."""
    if name not in METHODS:
        raise allowed("method", name, METHODS)
    return METHODS[name]


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


def clip(histogram: FoldSums, method: Method, alpha: float | None, format: Format) -> Clips:
    """The clip of each member of a stack, by any method that reads nothing but the histogram."""
    return Clips(format, *method.clip(Observed(histogram), alpha, format))


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
