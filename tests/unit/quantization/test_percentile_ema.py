"""Quamba's moving average over texts, by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sweep.quantization import formats
from sweep.quantization.methods import percentile_ema
from sweep.quantization.methods.method import Observed

INT8, ASYM = formats.named("int8"), formats.named("int8_asym")
# text i is in fold i mod 2: |x|, x from below, x from above of texts 0, 2, 4 and of 1, 3
FOLDS = [
    np.array([[1.0, -0.1, 0.9], [3.0, -0.3, 2.0], [5.0, -0.5, 4.0]]),
    np.array([[2.0, -0.2, 1.0], [4.0, -0.4, 3.0]]),
]


def average(numbers: list[float]) -> float:
    w = numbers[0]
    for q in numbers[1:]:
        w += 0.01 * (q - w)
    return w


def test_the_first_text_is_what_it_starts_from() -> None:
    assert percentile_ema.weights(1).tolist() == [1.0]
    np.testing.assert_allclose(percentile_ema.weights(3), [0.99**2, 0.01 * 0.99, 0.01])
    assert percentile_ema.weights(50).sum() == pytest.approx(1.0)


def test_texts_come_in_their_original_order() -> None:
    members = np.array([[True, True], [True, False], [False, True], [False, False]])
    low, high = percentile_ema.moving_average(np.array([0, 1]), FOLDS, members, INT8)
    np.testing.assert_allclose(high[:3], [average([1, 2, 3, 4, 5]), average([1, 3, 5]), average([2, 4])])
    np.testing.assert_array_equal(low, -high)
    assert np.isnan(high[3])


def test_the_number_of_a_fold_says_which_text_is_first() -> None:
    """Folds that were read the other way round: text 0 is in fold 0, wherever that stands."""
    both = np.ones((1, 2), bool)
    _, high = percentile_ema.moving_average(np.array([1, 0]), FOLDS[::-1], both, INT8)
    assert high[0] == pytest.approx(average([1, 2, 3, 4, 5]))


def test_with_a_zero_point_both_ends_are_averaged() -> None:
    low, high = percentile_ema.moving_average(np.array([0, 1]), FOLDS, np.ones((1, 2), bool), ASYM)
    assert low[0] == pytest.approx(average([-0.1, -0.2, -0.3, -0.4, -0.5]))
    assert high[0] == pytest.approx(average([0.9, 1, 2, 3, 4]))
    turned = [q[:, [0, 2, 1]] for q in FOLDS]  # alpha below 1/2: the ends change places
    again = percentile_ema.moving_average(np.array([0, 1]), turned, np.ones((1, 2), bool), ASYM)
    assert (again[0][0], again[1][0]) == (low[0], high[0])


def site() -> Any:
    """Quantiles for two alphas, those of 0.99 ten times as large."""
    quantiles = tuple(np.stack([q, 10 * q], 1) for q in FOLDS)
    return SimpleNamespace(
        folds=np.array([0, 1]),
        samples=np.array([3, 2]),
        text_alphas=np.array([0.9, 0.99]),
        text_quantiles=quantiles,
        histogram=None,
    )


def test_alpha_chooses_the_quantiles(monkeypatch: pytest.MonkeyPatch) -> None:
    members = np.ones((1, 2), bool)
    for alpha, times in ((0.9, 1), (0.99, 10)):
        clip = percentile_ema.clip(Observed(None, members, site()), alpha, INT8)  # type: ignore[arg-type]
        assert clip[1][0] == pytest.approx(times * average([1, 2, 3, 4, 5]))
        assert clip[0][0] == -clip[1][0]


def test_a_fold_by_itself_is_the_mean_of_its_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(percentile_ema, "FoldSums", lambda histogram, members: None)
    low, high = percentile_ema.sections(site(), 0.99, INT8)
    np.testing.assert_allclose(high, [10 * average([1, 2, 3, 4, 5]), 30.0, 30.0])
    np.testing.assert_array_equal(low, -high)
    low, high = percentile_ema.sections(site(), 0.9, ASYM)
    np.testing.assert_allclose(low, [average([-0.1, -0.2, -0.3, -0.4, -0.5]), -0.3, -0.3])
    np.testing.assert_allclose(high, [average([0.9, 1, 2, 3, 4]), 2.3, 2.0])


def test_the_rate_is_that_of_a_weighted_mean() -> None:
    """Five texts in two folds: sum w^2 5 / 2; one fold of three: sum w^2 3."""
    five, three = (np.square(percentile_ema.weights(n)).sum() for n in (5, 3))
    assert percentile_ema.rate(site(), np.array([True, True]), 0.9) == pytest.approx(five * 5 / 2)
    assert percentile_ema.rate(site(), np.array([True, False]), 0.9) == pytest.approx(three * 3)
