"""Sums of squared gradients by bin, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sweep.quantization.bins import BFLOAT16, BINS, FLOAT32, FLOAT32_FOLDS
from sweep.quantization.fisher import FisherHistogram


def one(weights: dict[int, float], tokens: int) -> FisherHistogram:
    dense = np.zeros(BINS)
    dense[list(weights)] = list(weights.values())
    return FisherHistogram.from_dense(BFLOAT16, dense, tokens)


def test_a_fold_has_the_bins_that_hold_a_gradient() -> None:
    fold = one({3: 0.5, 40_000: 2.0}, 70)
    assert fold.bins.tolist() == [3, 40_000]
    assert fold.bins.dtype == np.uint16
    assert fold.weights.tolist() == [[0.5, 2.0]]
    assert fold.tokens.tolist() == [70]
    assert fold.tokens.dtype == np.int64


def test_all_bins_are_given_back() -> None:
    """Bins of one code and of four."""
    for layout, size in ((BFLOAT16, BINS), (FLOAT32, BINS), (FLOAT32_FOLDS, BINS // 4)):
        dense = np.zeros(size)
        dense[[0, 5, size - 1]] = [0.5, 2.0, 3.0]
        np.testing.assert_array_equal(FisherHistogram.from_dense(layout, dense, 1).dense(0, size), dense)
    other = FisherHistogram.from_dense(FLOAT32_FOLDS, dense[::-1].copy(), 1)
    both = FisherHistogram.merge([FisherHistogram.from_dense(FLOAT32_FOLDS, dense, 1), other])
    np.testing.assert_array_equal(both.dense(1, BINS // 4), dense[::-1])


def test_four_codes_make_a_bin_of_single_folds_of_float32() -> None:
    dense = np.zeros(BINS // 4)
    dense[[0, 5, 16_383]] = [1.0, 2.0, 3.0]
    fold = FisherHistogram.from_dense(FLOAT32_FOLDS, dense, 1)
    assert fold.bins.tolist() == [0, 20, 65_532]
    assert fold.weights.tolist() == [[1.0, 2.0, 3.0]]


def test_folds_stand_side_by_side_over_all_bins() -> None:
    first, second = one({3: 0.5, 7: 1.0}, 70), one({5: 2.0, 7: 4.0}, 60)
    both = FisherHistogram.merge([first, second])
    assert both.layout == BFLOAT16
    assert both.bins.tolist() == [3, 5, 7]
    assert both.weights.tolist() == [[0.5, 0.0, 1.0], [0.0, 2.0, 4.0]]
    assert both.tokens.tolist() == [70, 60]
    three = FisherHistogram.merge([both, one({9: 8.0}, 10)])
    assert three.weights.tolist() == [[0.5, 0, 1, 0], [0, 2, 4, 0], [0, 0, 0, 8]]
    apart = FisherHistogram.merge([first, second, one({9: 8.0}, 10)])
    assert apart.weights.tolist() == three.weights.tolist()
    assert FisherHistogram.merge([first]).weights.tolist() == first.weights.tolist()
    some = three.take(np.array([2, 0]))
    assert some.layout == BFLOAT16
    assert some.weights.tolist() == [[0, 0, 0, 8], [0.5, 0, 1, 0]]
    assert some.tokens.tolist() == [10, 70]
    assert some.bins.tolist() == [3, 5, 7, 9]


def test_layouts_do_not_mix() -> None:
    other = FisherHistogram.from_dense(FLOAT32_FOLDS, np.zeros(BINS // 4), 1)
    with pytest.raises(ValueError, match=r"^cannot merge squared gradients of different layouts: bfloat16, float32 ro"):
        FisherHistogram.merge([other, one({1: 1.0}, 1)])
