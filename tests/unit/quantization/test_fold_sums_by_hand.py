"""Sums of two folds of a few bins of float32, whose edges lie half-way between float16 values, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sweep.quantization.bins import FLOAT16, FLOAT32, SIGN, Layout
from sweep.quantization.fold_sums import SILU_MINIMUM, FoldSums, _piles_up, each
from sweep.quantization.histogram import Histogram

ONE, STEP = 15 << 10, 2.0**-10  # the code of 1, and how far apart values lie above it


def near_one(steps: float) -> float:
    return 1 + steps * STEP


def single(counts: dict[int, int], low: float, high: float, layout: Layout = FLOAT32) -> Histogram:
    dense = np.zeros(65_536, np.int64)
    dense[list(counts)] = list(counts.values())
    return Histogram.from_dense(layout, dense, low, high)


# 3 in -1 -1.5 … -0.5 steps, 4 and 1 in 1 + 0.5 … 1.5 steps, 2 in 1 + 1.5 … 2.5 steps
def folds() -> Histogram:
    return Histogram.stack(
        [
            single({ONE + 1: 4, ONE + 2: 2}, near_one(0.5), near_one(2.5)),
            single({ONE + 1: 1, SIGN | (ONE + 1): 3}, -near_one(1.5), near_one(1.5)),
            single({}, np.inf, -np.inf),
        ]
    )


def sets() -> FoldSums:
    return FoldSums(
        folds(), np.array([[True, False, False], [False, True, True], [True, True, False], [False, False, True]])
    )


@pytest.mark.filterwarnings("error")
def test_sums_of_folds_by_hand() -> None:
    of_sets = sets()
    assert of_sets.counts.tolist() == [[4, 2, 0], [1, 0, 3], [5, 2, 3], [0, 0, 0]]
    assert (of_sets.counts.dtype, of_sets.layout) == (np.int64, FLOAT32)
    assert of_sets.bins.tolist() == [ONE + 1, ONE + 2, SIGN | (ONE + 1)]
    assert of_sets.n.tolist() == [6, 4, 10, 0]
    assert of_sets.min.tolist() == [near_one(0.5), -near_one(1.5), -near_one(1.5), np.inf]
    assert of_sets.max.tolist() == [near_one(2.5), near_one(1.5), near_one(2.5), -np.inf]
    assert of_sets.absmax[:3].tolist() == [near_one(2.5), near_one(1.5), near_one(2.5)]
    assert np.isnan(of_sets.absmax[3])
    assert of_sets.values.tolist() == [near_one(1), near_one(2), -near_one(1)]
    assert of_sets.ascending.tolist() == [2, 0, 1]
    assert of_sets.magnitudes.counts.tolist() == [[4, 2], [4, 0], [8, 2], [0, 0]]
    assert of_sets.weigh(np.array([[10.0, 1.0, 0.5], [-1.0, 1.0, 2.0]])).tolist() == [[5, 31, 36, 0], [8, -2, 6, 0]]
    assert of_sets.between(np.array([0, 1, 3])).tolist() == [[0, 6], [3, 1], [3, 7], [0, 0]]
    rows = of_sets.between(np.array([[0, 1, 3], [1, 2, 2]]))
    assert rows.tolist() == [[[0, 6], [3, 1], [3, 7], [0, 0]], [[4, 0], [1, 0], [5, 0], [0, 0]]]


@pytest.mark.filterwarnings("error")
def test_values_are_spread_evenly_over_their_bin() -> None:
    """By whole numbers, half up, of every fold: half of 3 counts as 2, half of 1 as 1, a quarter of 1 as none."""
    of_sets = sets()
    ends = [5.0, -2.0, -near_one(1), 0.0, near_one(0.75), near_one(1), near_one(1.5), near_one(2.25), near_one(2.5)]
    expected = [[6, 0, 0, 0, 1, 2, 4, 6, 6], [4, 0, 2, 3, 3, 4, 4, 4, 4]]
    assert of_sets.under(np.array(ends)).tolist() == [
        *expected,
        [a + b for a, b in zip(*expected, strict=True)],
        [0] * 9,
    ]
    nothing = FoldSums(Histogram.stack([single({}, np.inf, -np.inf)]), np.ones((2, 1), bool))
    assert nothing.under(np.zeros(3)).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert np.isnan(nothing.quantile(0.5)).tolist() == [True, True]


@pytest.mark.filterwarnings("error")
def test_a_bin_goes_no_further_than_values_do() -> None:
    one = each(single({ONE: 5}, 1.0, 1.0))
    assert one.under(np.array([1.0, np.nextafter(1.0, 2.0), 0.5, 2.0])).tolist() == [[0, 5, 0, 5]]
    part = each(single({ONE + 1: 4, ONE + 2: 4}, near_one(1), near_one(2)))  # from 1 to 1.5 and from 1.5 to 2 steps
    ends = np.array([near_one(e) for e in (1, 1.25, 1.5, 1.75, 2)])
    assert part.under(ends).tolist() == [[0, 2, 4, 6, 8]]


@pytest.mark.filterwarnings("error")
def test_order_statistics_lie_in_the_middle_of_their_shares_of_a_bin() -> None:
    """Six values: the least, 1.5, 2.5 and 3.5 quarters of the first bin, half of a half of the second, the largest."""
    of_sets = sets()
    steps = [0.5, 0.875, 1.125, 1.375, 1.75, 2.5]
    for rank, expected in enumerate(steps):
        assert of_sets.quantile(rank / 5)[0] == pytest.approx(near_one(expected), rel=1e-12)
    assert of_sets.quantile(0.5)[0] == pytest.approx(near_one((1.125 + 1.375) / 2), rel=1e-12)
    assert of_sets.quantile(0.75)[0] == pytest.approx(near_one(1.375 * 0.25 + 1.75 * 0.75), rel=1e-12)
    assert np.isnan(of_sets.quantile(0.5)[3])
    # 1.5 thirds of the negative bin is its middle; between it and the last third
    assert of_sets.quantile(1 / 3)[1] == pytest.approx(-near_one(1), rel=1e-12)
    assert of_sets.quantile(0.5)[1] == pytest.approx(-near_one((1 + 4 / 6) / 2), rel=1e-12)
    part = each(single({ONE + 1: 4, ONE + 2: 4}, near_one(1), near_one(2)))
    assert part.quantile(3 / 7)[0] == pytest.approx(near_one(1 + 0.5 * 3.5 / 4), rel=1e-12)
    assert part.quantile(4 / 7)[0] == pytest.approx(near_one(1.5 + 0.5 * 0.5 / 4), rel=1e-12)


@pytest.mark.parametrize("q", [0.0, 0.001, 0.1, 0.37, 0.5, 0.77, 0.999, 1.0])
def test_a_quantile_of_more_bins_than_one_step_of_the_search(q: float) -> None:
    """All finite float16 values, in two parts."""
    codes = np.arange(0, 0x7C00, dtype=np.uint16)
    sizes = codes.view(np.float16).astype(np.float64)
    values = [np.concatenate([sizes, -sizes[1:]]), np.repeat(sizes[5000:9000], 3)]
    parts = [
        single(dict.fromkeys([*codes.tolist(), *(codes[1:] | SIGN).tolist()], 1), -65504.0, 65504.0, FLOAT16),
        single(dict.fromkeys(codes[5000:9000].tolist(), 3), float(sizes[5000]), float(sizes[8999]), FLOAT16),
    ]
    sums = FoldSums(Histogram.stack(parts), np.array([[True, False], [False, True], [True, True]]))
    for got, x in zip(sums.quantile(q), (*values, np.concatenate(values)), strict=True):
        assert got == np.quantile(x, q, method="higher")


SILU = int(np.array([SILU_MINIMUM]).astype(np.float16).view(np.uint16)[0])


def silu(least: float) -> FoldSums:
    """A hundred values in the bin of SiLU's minimum, and a hundred far above."""
    return each(single({SILU: 100, ONE: 100}, least, 1.0))


@pytest.mark.filterwarnings("error")
def test_values_pile_up_at_the_minimum_of_silu() -> None:
    """The share of the values of a bin below a point grows as the root of its distance: a quarter of the way holds half
    of them. Only where values reach the minimum, to 1e-5."""
    for least, piled in ((SILU_MINIMUM, True), (SILU_MINIMUM + 5e-6, True), (SILU_MINIMUM + 2e-5, False)):
        sums = silu(least)
        top = float(sums.stack.ends_of_bins[1][0])
        for quarters, root, plain in ((1, 50, 25), (4, 100, 100)):
            end = np.array([least + (top - least) * quarters / 4])
            assert sums.under(end)[0, 0] == (root if piled else plain)
        share = 50.5 / 100
        expected = least + (top - least) * (share**2 if piled else share)
        assert sums.quantile(50 / 199)[0] == pytest.approx(expected, rel=1e-12)
        assert sums.under(np.array([near_one(-0.1)]))[0, 0] < 200


def test_a_pile_holds_the_minimum_and_nothing_less() -> None:
    m = SILU_MINIMUM
    low, high = np.array([m - 1, m, m, m - 1, m - 1]), np.array([m + 1, m + 1, m, m, m + 1])
    least = np.array([m, m, m, m, m - 2e-5])
    assert _piles_up(low, high, least).tolist() == [True, True, False, False, False]


def test_a_quantile_is_looked_up_once() -> None:
    of_sets = sets()
    assert of_sets.quantile(0.25) is of_sets.quantile(0.25)
    for outside in (-0.01, 1.01):
        with pytest.raises(ValueError, match=rf"^a quantile lies in \[0, 1\], not {outside}$"):
            of_sets.quantile(outside)


def test_each_member_or_a_single_histogram() -> None:
    both = folds()
    assert each(both).stack is both
    assert each(folds()).n.tolist() == [6, 4, 0]
    assert each(single({ONE: 5}, 1.0, 1.0)).n.tolist() == [5]


@pytest.mark.filterwarnings("error")
def test_one_value_and_none() -> None:
    """In both kinds of layout: every quantile of one value is that value, and none has no quantile."""
    for layout in (FLOAT16, FLOAT32):
        stack = Histogram.stack([single({ONE: 1}, 1.0, 1.0, layout), single({}, np.inf, -np.inf, layout)])
        for q in (0.0, 0.25, 1.0):
            got = each(stack).quantile(q)
            assert got[0] == 1
            assert np.isnan(got[1])
        assert each(stack).absmax[0] == 1
        assert np.isnan(each(stack).absmax[1])


def test_what_is_counted_is_whole() -> None:
    assert sets().under(np.zeros(2)).dtype == np.int64
    assert (
        FoldSums(Histogram.stack([single({}, np.inf, -np.inf)]), np.ones((2, 1), bool)).under(np.zeros(3)).dtype
        == np.int64
    )
    assert each(folds()).members.dtype == bool


def test_weights_of_negative_values_are_in_ascending_order() -> None:
    x = each(single({SIGN | (ONE + 2): 2, SIGN | (ONE + 1): 3, SIGN | ONE: 5, ONE: 7}, -1.1, 1.1))
    assert x.weigh(np.array([[1.0, 10.0, 100.0, 1000.0]])).tolist() == [[2 + 30 + 500 + 7000]]


def test_every_order_statistic_of_many_bins() -> None:
    """Also those of the bins at which one step of the search ends and the next begins."""
    sizes = np.arange(9000, dtype=np.uint16).view(np.float16).astype(np.float64)
    sums = each(single(dict.fromkeys(range(9000), 1), 0.0, float(sizes[-1]), FLOAT16))
    assert np.array_equal(sums._order_statistics(np.arange(9000)[:, None])[:, 0], sizes)
