"""Student's t and Holm's correction, for a handful of folds and many tests."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LEVEL = 0.05  # the chance of any false alarm in a report
FAMILY = LEVEL / 6  # of one in each family of tests, see `verdicts`
EXCESS = 1.2  # kurtosis beyond the normal's of the logistic law, which differences of two extremes follow (6/5)


def freedom(folds: int) -> float:
    """Degrees of freedom of an error told from so many folds; 0 where it is told from none.

    What folds answer has the tails of extremes, so its variance s^2 is less certain than a normal's would be (extremes
    follow Gumbel's law, and what is compared, differences of two, the logistic one):
    Var(s^2) = sigma^4 (excess / K + 2 / (K - 1)). Those of equal Var(s^2) are 2 / (excess / K + 2 / (K - 1))
    (Satterthwaite, Biometrics Bulletin 2, 1946): 4.59 for eight folds instead of 7."""
    return 2 / (EXCESS / folds + 2 / (folds - 1)) if folds > 1 else 0.0


def two_sided(t: ArrayLike, df: ArrayLike) -> Floats:
    """P(|T| > |t|) for Student's t with df degrees of freedom, not necessarily whole; NaN stays NaN."""
    from scipy.special import stdtr  # here: most starts of the program compare nothing

    return np.asarray(2 * stdtr(df, -np.abs(np.asarray(t, np.float64))))


@cache
def quantile(probability: float, df: float) -> float:
    """t with P(|T| <= t) = probability: quantile(0.95, 7) is 2.3646. NaN for no degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + probability) / 2)) if df > 0 else float("nan")


def p_values(effect: Floats, error: Floats, df: float, certain: bool = True) -> Floats:
    """Two-sided p of effect / error. An exact zero has p = 1.

    certain: whether an effect without any error is one for sure (p = 0), as where each fold of one calibration shows
    the same; else it says that the folds are too coarse to tell its error, and p is 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p = two_sided(effect / error, df)
    p = np.where((error == 0) & (effect != 0), 0.0 if certain else 1.0, p)
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
    """Standard error over the last axis: sqrt((K-1)/K * sum_k (t_k - mean t)^2); NaN for one fold, and
    where a fold is not finite, as the SQNR of what loses nothing."""
    folds = replicates.shape[-1]
    if folds < 2:
        return np.full(replicates.shape[:-1], np.nan)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.sqrt((folds - 1) * np.var(replicates, axis=-1)))


def paired_error(first: Floats | None, second: Floats | None) -> float | None:
    """Standard error of `second - first` from replicates [K] that left out the same folds of one calibration; None
    where either has none, or not as many."""
    if first is None or second is None or first.shape != second.shape:
        return None
    return float(jackknife(second - first))
