"""Quantiles of sums of a stack, without the sums: bit for bit those of the sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.quantization.bins import BFLOAT16, FLOAT32, SIGN, Layout
from sweep.quantization.fold_sums import FoldSums, each
from sweep.quantization.histogram import Histogram


def stack(seed: int, layout: Layout, folds: int, bins: int) -> Histogram:
    random = np.random.default_rng(seed)
    parts = []
    for _ in range(folds):
        dense = np.zeros(65_536, np.int64)
        codes = random.integers(0, 20_000, bins) | random.integers(0, 2, bins) * SIGN
        np.add.at(dense, codes, random.integers(1, 1000, bins))
        single = Histogram.from_dense(layout, dense, 0.0, 0.0)
        values = single.layout.edges[single.bins & (SIGN - 1)] * np.where(single.bins & SIGN, -1, 1)
        low, high = (values.min(), values.max()) if bins else (np.inf, -np.inf)
        parts.append(Histogram(layout, single.bins, single.counts, np.array(low), np.array(high)))
    return Histogram.stack(parts)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([FLOAT32, BFLOAT16]),
    st.integers(1, 6),
    st.integers(0, 40),
    st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 0.9995, 1.0])),
)
def test_a_quantile_of_a_sum(seed: int, layout: Layout, folds: int, bins: int, q: float) -> None:
    whole = stack(seed, layout, folds, bins)
    members = np.random.default_rng(seed).random((7, folds)) < 0.6
    sums = FoldSums(whole, members)
    summed = each(Histogram(whole.layout, whole.bins, sums.counts, sums.min, sums.max))
    assert np.array_equal(sums.quantile(q), summed.quantile(q), equal_nan=True)
    assert np.array_equal(sums.abs_quantile(q), summed.abs_quantile(q), equal_nan=True)
    assert np.array_equal(sums.n, summed.n)


def test_it_does_not_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = each(stack(0, FLOAT32, 4, 100))
    expected = sums.abs_quantile(0.99)
    monkeypatch.setattr(FoldSums, "counts", property(lambda self: pytest.fail("whole histograms were added up")))
    assert np.array_equal(each(sums.stack).abs_quantile(0.99), expected)
    with pytest.raises(ValueError, match=r"lies in \[0, 1\]"):
        sums.quantile(2)
