"""Methods: from a histogram to the clip, the magnitude that the largest code of a format stands for."""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import NDArray

from sweep.formats import Format
from sweep.histogram import Histogram

Floats = NDArray[np.float64]


class Method(str, Enum):
    MINMAX = "minmax"  # the largest magnitude observed
    PERCENTILE = "percentile"  # the alpha-quantile of all magnitudes, pooled

    @property
    def uses_alpha(self) -> bool:
        """Whether alpha can change this method's answer. If not, it is null in every table."""
        return self is Method.PERCENTILE

    def __str__(self) -> str:
        return self.value


def clip(histogram: Histogram, method: Method, alpha: float | None, format: Format) -> Floats:
    """The clip of one histogram, float64 [], or of each of a stack, [K]."""
    if method is Method.MINMAX:
        return histogram.absmax
    assert alpha is not None, f"{method} needs alpha"
    return histogram.abs_quantile(alpha)


def scale(histogram: Histogram, method: Method, alpha: float | None, format: Format) -> Floats:
    """Step between codes: clip / largest code. Same shapes as `clip`."""
    return clip(histogram, method, alpha, format) / format.largest


def jackknife_error(replicates: Floats) -> float:
    """Delete-one-fold standard error of a statistic, from its K leave-one-out values, float64 [K].

    sqrt((K-1)/K * sum_k (t_k - mean t)^2) (Efron & Tibshirani, An Introduction to the Bootstrap, eq. 11.5).
    NaN for fewer than two folds. For `minmax` it understates: the jackknife of a maximum sees only the one
    fold that holds it.
    """
    folds = len(replicates)
    if folds < 2:
        return float("nan")
    return float(np.sqrt((folds - 1) / folds * np.square(replicates - replicates.mean()).sum()))
