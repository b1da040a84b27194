"""Histograms of a handful of bins, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sweep.quantization.bins import BFLOAT16, FLOAT16, FLOAT32, FLOAT32_FOLDS, SIGN, Layout
from sweep.quantization.fold_sums import FoldSums
from sweep.quantization.histogram import Histogram, short

ONE = 15 << 10  # the code of 1 in float16, whose mantissa has 10 bits
SOME = {3: 1, ONE: 2, ONE + 5: 3, SIGN | 2: 4, SIGN | ONE: 5}


def single(counts: dict[int, int], low: float, high: float, layout: Layout = FLOAT16) -> Histogram:
    dense = np.zeros(65_536, np.int64)
    dense[list(counts)] = list(counts.values())
    return Histogram.from_dense(layout, dense, low, high)


def parts(histogram: Histogram) -> tuple[list[int], object, object, object]:
    return tuple(a.tolist() for a in (histogram.bins, histogram.counts, histogram.min, histogram.max))  # type: ignore[return-value]


EMPTY = single({}, np.inf, -np.inf)
A, B = single({3: 1, ONE: 2}, 0.0, 1.0), single({ONE: 4, SIGN | 2: 5}, -0.5, 1.5)
STACK = Histogram.stack([A, B, EMPTY])


def test_of_counts_of_all_codes() -> None:
    assert parts(A) == ([3, ONE], [1, 2], 0, 1)
    assert (A.layout, A.bins.dtype, A.counts.dtype) == (FLOAT16, np.uint16, np.int32)
    assert parts(EMPTY) == ([], [], np.inf, -np.inf)


def test_a_stack_has_the_bins_of_all_its_members() -> None:
    assert parts(STACK) == (
        [3, ONE, SIGN | 2],
        [[1, 2, 0], [0, 4, 5], [0, 0, 0]],
        [0, -0.5, np.inf],
        [1, 1.5, -np.inf],
    )
    assert (STACK.layout, STACK.bins.dtype, STACK.counts.dtype, STACK.min.dtype) == (
        FLOAT16, np.uint16, np.int32, np.float64,
    )  # fmt: skip
    assert STACK.n.tolist() == [3, 9, 0]
    assert STACK.absmax[:2].tolist() == [1, 1.5]
    assert np.isnan(STACK.absmax[2])
    assert parts(STACK.total()) == ([3, ONE, SIGN | 2], [1, 6, 5], -0.5, 1.5)
    assert A.n == 3
    below = Histogram.stack([A, B, EMPTY]).cumulative
    assert below.tolist() == [[0, 0, 0], [0, 5, 0], [1, 5, 0], [3, 9, 0]]  # ascending: -2, 3, one
    assert below.dtype == np.int64


def test_counts_beyond_32_bits_stay_whole_numbers() -> None:
    wide, most = single({ONE: 2**31}, 1.0, 1.0), 2**31 - 1
    beside = Histogram.beside([Histogram.stack([wide]), Histogram.stack([A])])
    for both in (Histogram.stack([wide, A]), wide + A, beside):
        assert both.counts.dtype == np.int64
    assert beside.counts.tolist() == [[0, 2**31], [1, 2]]
    full = single({ONE: most, ONE + 1: most}, 1.0, 1.01, FLOAT32)
    assert full.counts.dtype == np.int32
    assert parts(full.coarser(FLOAT32_FOLDS)) == ([ONE], [2 * most], 1, 1.01)
    halves = Histogram.stack([single({ONE: most - 1}, 1.0, 1.0, FLOAT32_FOLDS)]).finer(Histogram.stack([full]))
    assert halves.counts.tolist() == [[2**30 - 1, 2**30 - 1]]


def test_extremes_are_floats_whatever_they_came_as() -> None:
    dense = np.zeros(65_536, np.int64)
    stacked = Histogram.stack([Histogram.from_dense(FLOAT16, dense, 0, 1)])
    assert (stacked.min.dtype, stacked.max.dtype) == (np.float64, np.float64)


def test_members_stand_beside_each_other_or_among_others() -> None:
    two = Histogram.beside([Histogram.stack([A]), Histogram.stack([B, EMPTY])])
    assert parts(two) == parts(STACK)
    wide = Histogram.stack([single({3: 2**31}, 0.0, 0.0)])
    assert Histogram.beside([Histogram.stack([A]), wide]).counts.tolist() == [[1, 2], [2**31, 0]]
    assert two.counts.dtype == np.int32
    assert {h.layout for h in (two, STACK.total(), A + B, Histogram.stack([A]).among(np.array([0]), 1))} == {FLOAT16}
    among = Histogram.stack([A, B]).among(np.array([2, 0]), 4)
    assert parts(among) == (
        [3, ONE, SIGN | 2],
        [[0, 4, 5], [0, 0, 0], [1, 2, 0], [0, 0, 0]],
        [-0.5, np.inf, 0, np.inf],
        [1.5, -np.inf, 1, -np.inf],
    )
    assert among.counts.dtype == np.int32


def test_adding_adds_counts_and_keeps_the_farther_extremes() -> None:
    assert parts(A + B) == ([3, ONE, SIGN | 2], [1, 6, 5], -0.5, 1.5)
    both = Histogram.stack([A, B]) + Histogram.stack([B, EMPTY])
    assert parts(both) == ([3, ONE, SIGN | 2], [[1, 6, 5], [0, 4, 5]], [-0.5, -0.5], [1.5, 1.5])
    with pytest.raises(ValueError, match=r"cannot merge stacks of \(2,\) and \(3,\)"):
        Histogram.stack([A, B]) + STACK
    for one, other, shapes in ((A, STACK, r"\(\) and \(3,\)"), (STACK, A, r"\(3,\) and \(\)")):
        with pytest.raises(ValueError, match=f"^cannot merge stacks of {shapes}$"):
            one + other
    coarse = single({3: 1}, 0.0, 0.0, BFLOAT16)
    for merge in (
        lambda: A + coarse,
        lambda: Histogram.stack([A, coarse]),
        lambda: Histogram.beside([STACK, Histogram.stack([coarse])]),
    ):
        with pytest.raises(ValueError, match=r"^cannot merge histograms of different layouts: bfloat16, float16$"):
            merge()


def test_wide_bins_hold_the_counts_of_the_narrow_ones() -> None:
    fine = Histogram.stack([single(SOME, -1.0, 1.01, FLOAT32), single({ONE + 1: 7}, 1.0, 1.0, FLOAT32)])
    wide = fine.coarser(FLOAT32_FOLDS)
    assert wide.layout == FLOAT32_FOLDS
    assert parts(wide) == (
        [0, ONE, ONE + 4, SIGN, SIGN | ONE],
        [[1, 2, 3, 4, 5], [0, 7, 0, 0, 0]],
        [-1, 1],
        [1.01, 1],
    )
    assert wide.counts.dtype == np.int32
    assert wide.coarser(FLOAT32_FOLDS) is wide
    nothing = single({}, np.inf, -np.inf, FLOAT32).coarser(FLOAT32_FOLDS)
    assert (nothing.layout, len(nothing.bins), nothing.counts.shape) == (FLOAT32_FOLDS, 0, (0,))
    two = Histogram.stack([single({}, np.inf, -np.inf, FLOAT32)] * 2).coarser(FLOAT32_FOLDS)
    assert (two.counts.shape, two.counts.dtype) == ((2, 0), np.int32)


def test_what_lies_in_a_wide_bin_is_shared_out_as_all_of_it_is() -> None:
    """All together: 6, 2 and 4 in the bins of one wide bin, 5 in another. Of 6 values 3, 1 and 2; of 5 the running sums
    2.5, 3.3 and 5 are rounded half up to 3, 3 and 5."""
    pooled = Histogram.stack([single({ONE: 6, ONE + 1: 2, ONE + 3: 4, SIGN | ONE: 5}, -1.0, 1.0, FLOAT32)])
    folds = Histogram.stack(
        [single(c, -1.0, 1.0, FLOAT32_FOLDS) for c in ({ONE: 6, SIGN | ONE: 2}, {ONE: 5, SIGN | ONE: 3}, {ONE: 1})]
    )
    finer = folds.finer(pooled)
    assert finer.layout == FLOAT32
    assert parts(finer) == (
        [ONE, ONE + 1, ONE + 3, SIGN | ONE],
        [[3, 1, 2, 2], [3, 0, 2, 3], [1, 0, 0, 0]],
        [-1] * 3,
        [1] * 3,
    )
    assert finer.counts.dtype == np.int64


def test_the_value_of_a_bin() -> None:
    """Of float16 itself; of float32 the middle between two edges, which are half-way between float16 values."""
    step, half = 2.0**-10, 2.0**-11
    exact = single(SOME, -1.0, 2.0)
    assert exact.values.tolist() == [3 * 2.0**-24, 1, 1 + 5 * step, -2 * 2.0**-24, -1]
    fine = single({ONE: 1, ONE + 5: 1, SIGN | (ONE + 1): 1}, -2.0, 2.0, FLOAT32)
    # of 1 from 1 - 2^-12 to 1 + 2^-11: below 1 values lie half as far apart
    assert fine.values.tolist() == [1 + half / 4, 1 + 5 * step, -1 - step]
    wide = single({ONE + 4: 1, SIGN | (ONE + 4): 1}, -2.0, 2.0, FLOAT32_FOLDS)
    assert wide.values.tolist() == [1 + 5.5 * step, -1 - 5.5 * step]
    kept = single({ONE + 4: 1, SIGN | (ONE + 4): 1}, -1 - 4 * step, 1 + 5 * step, FLOAT32_FOLDS)
    assert kept.values.tolist() == [1 + 5 * step, -1 - 4 * step]  # never beyond the extremes


def test_the_values_of_the_bins_at_both_ends_of_the_window() -> None:
    """What rounds to zero counts as zero; what rounds to infinity lies half-way from 65520 to the extreme."""
    ends = {0: 1, 1: 1, 0x7C00: 1, SIGN: 1, SIGN | 0x7C00: 1}
    assert single(ends, -1e6, 9e5, FLOAT32).values.tolist() == [0, 2.0**-24, (65520 + 1e6) / 2, 0, -(65520 + 1e6) / 2]
    assert single(ends, -1e5, 9e5, FLOAT32).values.tolist() == [0, 2.0**-24, (65520 + 9e5) / 2, 0, -1e5]
    assert single({0x7C00: 1}, 0.0, 65521.0, FLOAT32).values.tolist() == [65520.5]


def test_bins_by_value_and_their_ends() -> None:
    exact, step = single(SOME, -1.0, 2.0), 2.0**-10
    assert exact.bins[exact.ascending].tolist() == [SIGN | ONE, SIGN | 2, 3, ONE, ONE + 5]
    for ends in exact.ends_of_bins:
        assert ends.tolist() == [-1, -2 * 2.0**-24, 3 * 2.0**-24, 1, 1 + 5 * step]
    fine = single({ONE + 1: 1, ONE + 4: 1, SIGN | (ONE + 1): 1}, -1.001, 1 + 4 * step, FLOAT32)
    low, high = fine.ends_of_bins
    assert low.tolist() == [-1 - 1.5 * step, 1 + 0.5 * step, 1 + 3.5 * step]
    assert high.tolist() == [-1 - 0.5 * step, 1 + 1.5 * step, 1 + 4.5 * step]
    assert fine.reached.tolist() == [
        [-1.001, 1 + 0.5 * step, 1 + 3.5 * step],
        [-1 - 0.5 * step, 1 + 1.5 * step, 1 + 4 * step],
    ]
    wide = single({ONE + 4: 1}, 1.0, 2.0, FLOAT32_FOLDS)
    assert [ends.tolist() for ends in wide.ends_of_bins] == [[1 + 3.5 * step], [1 + 7.5 * step]]


def test_magnitudes_add_both_signs() -> None:
    both = Histogram.stack([single(SOME, -1.0, 0.5), EMPTY, single({2: 9}, 2.0**-23, 2.0**-23)])
    sizes = both.magnitudes
    assert parts(sizes) == (
        [2, 3, ONE, ONE + 5],
        [[4, 1, 7, 3], [0, 0, 0, 0], [9, 0, 0, 0]],
        [0, np.inf, 0],
        [1, -np.inf, 2.0**-23],
    )
    assert (sizes.layout, sizes.counts.dtype) == (FLOAT16, np.int64)
    assert parts(single(SOME, -1.0, 0.5).magnitudes) == ([2, 3, ONE, ONE + 5], [4, 1, 7, 3], 0, 1)
    assert FoldSums(both, np.eye(3, dtype=bool)).magnitudes.stack.bins.tolist() == [2, 3, ONE, ONE + 5]


def test_counts_take_32_bits_where_they_fit() -> None:
    assert short(np.array([2**31 - 1])).dtype == np.int32
    assert short(np.array([2**31])).tolist() == [2**31]
    assert short(np.zeros(0, np.int64)).dtype == np.int32
