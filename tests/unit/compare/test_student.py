"""Student's t and Holm against textbook values and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sweep.compare.analysis.significance import FAMILY, freedom, holm, jackknife, p_values, quantile, two_sided


@pytest.fixture(autouse=True)
def no_quantile_is_known_yet() -> None:
    quantile.cache_clear()


@pytest.mark.parametrize("df", [1, 2, 3, 7, 8, 15, 64])
def test_tail_of_t(df: int) -> None:
    t = np.array([0.0, 0.3, 1.0, 2.5, 8.0, 30.0])
    np.testing.assert_allclose(two_sided(-t, df), 2 * stats.t.sf(t, df), rtol=1e-9, atol=1e-15)
    assert quantile(0.95, df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-9)


def test_holm_by_hand() -> None:
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.03, 0.06, np.nan, 0.06, 0.02])


def test_holm_keeps_the_chance_of_any_false_alarm() -> None:
    rng = np.random.default_rng(0)
    alarms = [(holm(rng.random(500)) <= 0.05).any() for _ in range(2000)]
    assert np.mean(alarms) < 0.07  # 0.05 and four standard errors


def test_holm_ends_at_one() -> None:
    assert holm(np.array([0.6, 0.9, 0.01])).tolist() == [1.0, 1.0, 0.03]


def test_p_is_that_of_effect_over_error() -> None:
    """Two standard errors of seven degrees of freedom: 0.0856."""
    p = p_values(np.array([1.0, -3.0]), np.array([0.5, 1.5]), 7)
    np.testing.assert_allclose(p, 0.0856, atol=1e-4)


@pytest.mark.filterwarnings("error")  # a reader of the report would see them
def test_p_of_exact_differences() -> None:
    p = p_values(np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.0, 0.0, 1.0, np.nan]), 7)
    assert p[:3].tolist() == [1.0, 0.0, 1.0]
    assert np.isnan(p[3])


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    x = np.random.default_rng(1).normal(size=8)
    left_out = (x.sum() - x) / 7
    assert jackknife(left_out) == pytest.approx(x.std(ddof=1) / np.sqrt(8))


def test_jackknife_is_over_the_last_axis() -> None:
    """Two folds: half of their distance; three: sqrt(2/3 (1 + 0 + 1))."""
    np.testing.assert_allclose(jackknife(np.array([[1.0, 3.0], [5.0, 5.0]])), [1.0, 0.0])
    np.testing.assert_allclose(jackknife(np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 6.0]])), [np.sqrt(4 / 3), 4.0])
    unknown = jackknife(np.ones((4, 3, 1)))
    assert unknown.shape == (4, 3)
    assert np.isnan(unknown).all()


def test_a_coarse_error_is_no_certainty() -> None:
    effect, error = np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.0, 1.0])
    assert p_values(effect, error, 7, certain=False).tolist()[:2] == [1.0, 1.0]
    assert p_values(effect, error, 7)[1] == 0.0


@pytest.mark.filterwarnings("error")  # whoever compares would see them
def test_what_loses_nothing_has_no_error() -> None:
    """Where a setting loses nothing its SQNR is infinite, and so is every fold's."""
    errors = jackknife(np.array([[1.0, 3.0], [np.inf, 1.0], [np.inf, np.inf]]))
    np.testing.assert_array_equal(errors, [1.0, np.nan, np.nan])


def test_degrees_of_freedom_by_hand() -> None:
    """Eight folds: 2 / (1.2 / 8 + 2 / 7) = 4.5902; the t of 95 % is 2.64 then, not 2.36."""
    assert freedom(8) == pytest.approx(4.590164, rel=1e-6)
    assert freedom(2) == pytest.approx(2 / 2.6)
    assert freedom(1) == 0.0
    assert np.isnan(quantile(0.95, freedom(1)))
    assert quantile(0.95, freedom(8)) == pytest.approx(stats.t.ppf(0.975, 2 / (1.2 / 8 + 2 / 7)))
    assert pytest.approx(0.05 / 6) == FAMILY


def test_they_are_those_of_the_variance_of_differences_of_extremes() -> None:
    """Var(s^2) / sigma^4 of eight differences of two values of Gumbel's law is 2 / df."""
    rng = np.random.default_rng(0)
    values = (rng.gumbel(size=(400_000, 8)) - rng.gumbel(size=(400_000, 8))).var(1, ddof=1) / (np.pi**2 / 3)
    assert values.var() == pytest.approx(2 / freedom(8), rel=0.05)
