"""Replicates by hand, and the errors that they give against what repetition shows."""

from __future__ import annotations

import numpy as np
import pytest

from sweep.quantization.methods.registry import jackknife_error
from sweep.quantization.replicates import error_factor, move, rate_of_quantile


def test_of_three_folds_by_hand() -> None:
    """ln q = 0, 1, 2: the mean is 1, without each 1.5, 1, 0.5; times sqrt(3 rate)."""
    folds = np.exp([[0.0, 1.0, 2.0]])
    for rate, power in ((1 / 3, 1.0), (1.0, np.sqrt(3))):
        moved = move(np.array([10.0]), folds, rate)[0]
        np.testing.assert_allclose(moved, 10 * np.exp(power * np.array([0.5, 0.0, -0.5])))


@pytest.mark.filterwarnings("error")
def test_answers_of_both_signs_or_zero_are_moved_by_sums() -> None:
    """-1, 0 and 4: the mean is 1, without each 2, 1.5 and -0.5; at a rate of 1/3 the answer moves as that does."""
    np.testing.assert_allclose(move(np.array([7.0]), np.array([[-1.0, 0.0, 4.0]]), 1 / 3), [[8.0, 7.5, 5.5]])
    np.testing.assert_allclose(move(np.array([0.0]), np.array([[1.0, 2.0]]), 1 / 2), [[0.5, -0.5]])


def test_every_row_is_moved_by_its_own_folds() -> None:
    """Rows of e^0 e^1 e^2, of -1 0 4, and of three times the same, whatever stands beside them."""
    whole = np.array([[1.0, 7.0], [5.0, -2.0]])
    folds = np.array([[np.exp([0.0, 1, 2]), [-1.0, 0.0, 4.0]], [[5.0, 5.0, 5.0], -np.exp([0.0, 1, 2])]])
    once = np.exp([0.5, 0.0, -0.5])
    expected = np.array([[once, [8.0, 7.5, 5.5]], [[5.0, 5.0, 5.0], -2 * once]])
    np.testing.assert_allclose(move(whole, folds, 1 / 3), expected)


def test_the_error_is_the_share_of_the_variance_of_a_fold() -> None:
    folds = np.array([[-1.0, 0.5, 1.0, 3.5]])  # of both signs: they add
    for rate in (0.25, 0.6, 1.0):
        error = jackknife_error(move(np.array([7.0]), folds, rate))
        assert error[0] == pytest.approx(np.sqrt(rate) * folds.std(ddof=1))
        assert jackknife_error(move(np.array([7.0]), folds, rate, 3.0))[0] == pytest.approx(3 * error[0])


def test_nothing_is_known_from_one_fold_or_from_copies() -> None:
    assert np.isnan(move(np.array([1.0]), np.array([[1.0]]), 1.0)).all()
    assert np.isnan(move(np.array([1.0]), np.array([[1.0, 2.0]]), 1.0, np.inf)).all()
    assert (move(np.array([0.0]), np.array([[0.0, 0.0]]), 1.0) == 0).all()


def test_the_rate_of_a_quantile_lies_between_a_mean_and_a_maximum() -> None:
    assert rate_of_quantile(0.0, 8) == 1.0
    assert rate_of_quantile(1e9, 8) == pytest.approx(1 / 8)
    # four values beyond come as one cluster: (1 / 8 + 6 / pi^2) / (1 + 6 / pi^2)
    assert rate_of_quantile(4.0, 8) == pytest.approx((0.125 + 0.607927) / 1.607927, rel=1e-6)
    rates = [rate_of_quantile(r, 8) for r in (0, 1, 10, 100, 1000)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("law", ["pareto", "exponential", "uniform"])
def test_the_error_of_a_maximum_is_no_less_than_what_repetition_shows(law: str) -> None:
    """32 x 32 calibrations of 8 folds of 500 values; a jackknife that leaves one out covers two thirds."""
    rng = np.random.default_rng(0)
    draw = {"pareto": lambda s: rng.pareto(3, s) + 1, "exponential": rng.exponential, "uniform": rng.random}[law]
    maxima = np.asarray(draw((1024, 8, 500)) if law == "pareto" else draw(size=(1024, 8, 500))).max(-1)
    whole = maxima.max(1)
    errors = jackknife_error(np.log(move(whole, maxima, 1.0)))
    assert np.sqrt(np.square(errors).mean()) > 0.95 * np.log(whole).std()
    covered = np.abs(np.log(whole) - np.log(whole).mean()) <= 3.0 * errors
    assert covered.mean() > 0.92
    left_out = np.stack([np.delete(maxima, k, axis=1).max(1) for k in range(8)], 1)
    held = np.abs(np.log(whole) - np.log(whole).mean()) <= 3.0 * jackknife_error(np.log(left_out))
    assert held.mean() < covered.mean() - 0.1


@pytest.mark.filterwarnings("error")
def test_copies_by_hand() -> None:
    assert error_factor(np.zeros(4, np.int64), 1) == 1.0  # one fold tells no error anyway
    # 0 1 | 0, of two sizes: shares 1/2, 1/2 and 1, 0; true 9/16 + 1/16, told 4 * 1/16 / 2
    assert error_factor(np.array([0, 0, 1]), 2) == pytest.approx(np.sqrt(0.625 / 0.125))
    # 0 1 1 | 0 0: shares 1/3, 2/3 and 1, 0; true 4/9 + 1/9, told 4 * 1/9 / 2
    assert error_factor(np.array([0, 0, 1, 0, 1]), 2) == pytest.approx(np.sqrt(2.5))
    assert error_factor(np.arange(16), 8) == 1.0
    assert error_factor(np.zeros(8, np.int64), 8) == np.inf  # eight copies of one sample
    assert error_factor(np.array([0, 0, 1, 1]), 2) == np.inf  # both folds hold the same two
    # a copy in its own fold: two samples in two folds, which is what the folds tell
    assert error_factor(np.array([0, 1, 0, 1]), 2) == pytest.approx(1.0)
    # 0 1 | 0 2: shares 1/2, 1/2, 0 and 1/2, 0, 1/2; true 1/4 + 1/16 + 1/16, told 4 * 1/16 / 2
    assert error_factor(np.array([0, 0, 1, 2]), 2) == pytest.approx(np.sqrt(0.375 / 0.125))


def test_the_factor_makes_the_error_of_a_mean_right() -> None:
    rng = np.random.default_rng(0)
    samples = np.array([0, 1, 2, 3, 4, 5, 0, 0, 1, 6, 7, 8])
    values = rng.normal(size=(4000, 9))[:, samples]
    folds = np.stack([values[:, k::4].mean(1) for k in range(4)], 1)
    told = (folds.var(1, ddof=1) / 4).mean()
    assert values.mean(1).var() == pytest.approx(error_factor(samples, 4) ** 2 * told, rel=0.1)
