"""Student's t and Holm's correction, for a handful of folds and many tests."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def two_sided(t: ArrayLike, df: int) -> Floats:
    """P(|T| > |t|) for Student's t with an integer number of degrees of freedom; NaN stays NaN.

    The finite sums of Abramowitz & Stegun 26.7.3 and 26.7.4; absolute error below 1e-15.
    """
    angle = np.arctan(np.abs(np.asarray(t, np.float64)) / math.sqrt(df))
    sine, cosine = np.sin(angle), np.cos(angle)
    term = np.ones_like(angle) if df % 2 == 0 else cosine.copy()
    total = np.zeros_like(angle)
    for k in range(df % 2 + 1, df, 2):
        total += term
        term = term * cosine**2 * k / (k + 1)
    inside = sine * total if df % 2 == 0 else (angle + sine * total) * 2 / math.pi
    return np.asarray(np.clip(1 - inside, 0.0, 1.0))


@cache
def quantile(probability: float, df: int) -> float:
    """t with P(|T| <= t) = probability, by bisection: quantile(0.95, 7) is 2.3646."""
    low, high = 0.0, 1e9
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - two_sided(middle, df) < probability else (low, middle)
    return high


def p_values(effect: Floats, error: Floats, df: int) -> Floats:
    """Two-sided p of effect / error. An exact zero has p = 1; any other effect without error has p = 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p = two_sided(effect / error, df)
    p = np.where((error == 0) & (effect != 0), 0.0, p)
    return np.where(effect == 0, 1.0, p)


def holm(p: Floats) -> Floats:
    """Holm's step-down adjusted p-values (Scandinavian Journal of Statistics 6, 1979); NaN takes no part.

    Rejecting where the result is <= q keeps the chance of even one false rejection at or below q, however
    the tests depend on one another.
    """
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted


def jackknife(replicates: Floats) -> Floats:
    """Standard error over the last axis: sqrt((K-1)/K * sum_k (t_k - mean t)^2); NaN for one fold."""
    folds = replicates.shape[-1]
    if folds < 2:
        return np.full(replicates.shape[:-1], np.nan)
    return np.asarray(np.sqrt((folds - 1) * np.var(replicates, axis=-1)))
