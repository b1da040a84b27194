"""The guarantees of `sweep.quantization.histogram`, over values of every class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor
from torch.nn import functional as F

from sweep.calibration.accumulator import LAYOUTS
from sweep.quantization.bins import BFLOAT16, BINS, FLOAT16, FLOAT32, FLOAT32_FOLDS, SIGN, layout
from sweep.quantization.fold_sums import FoldSums, each
from sweep.quantization.histogram import Histogram
from sweep.quantization.window import outside
from tests.tallies import bin_codes

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
ALPHAS = st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9995, 0.99999, 1.0])


def histogram(x: Tensor) -> Histogram:
    dense = torch.bincount(bin_codes(x), minlength=BINS).numpy()
    return Histogram.from_dense(LAYOUTS[x.dtype], dense, float(x.min()), float(x.max()))


def quantile(histogram: Histogram, q: float) -> float:
    """Of one histogram, the q-quantile of its signed values."""
    return float(each(histogram).quantile(q)[0])


def abs_quantile(histogram: Histogram, alpha: float) -> float:
    """Of one histogram, the alpha-quantile of magnitudes."""
    return float(each(histogram).abs_quantile(alpha)[0])


def bits(dtype: torch.dtype) -> st.SearchStrategy[Tensor]:
    """Tensors of any finite bit patterns: zeros of both signs, subnormals, huge values."""
    finite = 0x7F80 if dtype is torch.bfloat16 else 0x7C00
    magnitude = hnp.arrays(np.int32, st.integers(1, 300), elements=st.integers(0, finite - 1))
    return st.tuples(magnitude, st.integers(0, 2**32 - 1)).map(
        lambda drawn: torch.from_numpy(
            (drawn[0] | (np.random.default_rng(drawn[1]).integers(0, 2, len(drawn[0])) << 15))
            .astype(np.uint16)
            .view(np.int16)
        ).view(dtype)
    )


def floats() -> st.SearchStrategy[Tensor]:
    """float32 tensors inside the window, over many orders of magnitude."""
    exponent = st.floats(-13.5, 15.5, width=32)
    return st.tuples(hnp.arrays(np.float32, st.integers(1, 300), elements=exponent), st.integers(0, 2**32 - 1)).map(
        lambda drawn: torch.from_numpy(
            np.exp2(drawn[0]) * np.random.default_rng(drawn[1]).choice(np.float32([-1, 1]), len(drawn[0]))
        )
    )


def values() -> st.SearchStrategy[Tensor]:
    return st.one_of(bits(torch.bfloat16), bits(torch.float16), floats())


def same(a: Histogram, b: Histogram) -> bool:
    return (
        a.layout == b.layout
        and np.array_equal(a.bins, b.bins)
        and np.array_equal(a.counts, b.counts)
        and np.array_equal(a.min, b.min)
        and np.array_equal(a.max, b.max)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_representable_value_has_a_bin_of_its_own(dtype: torch.dtype) -> None:
    patterns = torch.arange(BINS, dtype=torch.int32).to(torch.int16)
    x = patterns.view(dtype)
    assert torch.equal(bin_codes(x), torch.arange(BINS))
    finite = x[x.isfinite()]
    h = histogram(finite)
    assert np.array_equal(h.values, finite.double().numpy()[np.argsort(bin_codes(finite).numpy())])


@given(values(), ALPHAS)
def test_16_bit_quantiles_are_order_statistics_bit_for_bit(x: Tensor, q: float) -> None:
    if x.dtype is torch.float32:
        return
    exact = x.double().numpy()
    assert abs_quantile(histogram(x), q) == np.quantile(np.abs(exact), q, method="higher")
    assert quantile(histogram(x), q) == np.quantile(exact, q, method="higher")


@given(floats(), ALPHAS)
def test_float32_quantiles_keep_their_bound(x: Tensor, q: float) -> None:
    exact = x.double().numpy()
    assert abs_quantile(histogram(x), q) == pytest.approx(np.quantile(np.abs(exact), q), rel=2**-10)
    # signed: the interpolation between a negative and a positive order statistic may cancel
    bound = 2**-10 * np.abs(exact).max()
    assert quantile(histogram(x), q) == pytest.approx(np.quantile(exact, q), abs=bound)


@pytest.mark.parametrize("value", [2.0**-30, 2.0**-25, 1.5 * 2.0**-20, 3e-5, 1.0004883, 2049.0, 65519.0, 65521.0, 1e9])
def test_a_float32_value_lies_within_its_bin(value: float) -> None:
    x = torch.tensor([value, -value])
    positive, negative = bin_codes(x).tolist()
    assert negative == positive | SIGN
    assert FLOAT32.edges[positive] <= x[0].item() <= FLOAT32.edges[positive + 1]


@given(values(), values())
def test_bins_of_folds_hold_four_each(x: Tensor, y: Tensor) -> None:
    a, b = histogram(x.float()), histogram(y.float())
    folds = [h.coarser(FLOAT32.of_folds) for h in (a, b)]
    assert same(folds[0] + folds[1], (a + b).coarser(FLOAT32.of_folds))
    assert folds[0].layout != a.layout
    expected = np.zeros(BINS, np.int64)
    np.add.at(expected, a.bins // 4 * 4, a.counts)
    assert np.array_equal(folds[0].bins, np.flatnonzero(expected))
    assert np.array_equal(folds[0].counts, expected[expected > 0])
    exact = histogram(x.bfloat16())
    assert exact.coarser(exact.layout.of_folds) is exact


@given(floats(), st.floats(0.0, 1.0))
def test_a_quantile_in_the_bins_of_folds_is_off_by_at_most_one_of_them(x: Tensor, q: float) -> None:
    approximate = abs_quantile(histogram(x).coarser(FLOAT32.of_folds), q)
    assert approximate == pytest.approx(np.quantile(np.abs(x.double().numpy()), q), rel=2**-8)


@given(values())
def test_extremes_are_exact(x: Tensor) -> None:
    h = histogram(x)
    assert abs_quantile(h, 1.0) == x.double().abs().max().item() == h.absmax
    assert quantile(h, 1.0) == x.double().max().item()
    assert quantile(h, 0.0) == x.double().min().item()
    assert h.n == x.numel()


@given(values(), st.randoms(use_true_random=False))
def test_order_does_not_matter_and_merging_is_addition(x: Tensor, random: object) -> None:
    shuffled = x[torch.from_numpy(np.random.default_rng(len(x)).permutation(len(x)))]
    whole = histogram(x)
    assert same(histogram(shuffled), whole)
    if len(x) >= 3:
        a, b, c = (histogram(part) for part in x.tensor_split(3))
        assert same(a + b, b + a)
        assert same((a + b) + c, a + (b + c))
        assert same(a + b + c, whole)
        stack = Histogram.stack([a, b, c])
        assert same(stack.total(), whole)
        some = np.array([[True, False, True], [True, True, False]])
        assert list(FoldSums(stack, some).abs_quantile(0.9)) == [abs_quantile(a + c, 0.9), abs_quantile(a + b, 0.9)]


def test_layouts_that_differ_do_not_merge() -> None:
    x = torch.ones(4)
    with pytest.raises(ValueError, match="bfloat16, float16"):
        histogram(x.bfloat16()) + histogram(x.half())
    with pytest.raises(ValueError, match="different layouts"):
        Histogram.stack([histogram(x), histogram(x.half())])


@pytest.mark.parametrize("known", [BFLOAT16, FLOAT16, FLOAT32])
def test_a_layout_is_found_by_its_name(known: object) -> None:
    assert layout(str(known)) is known
    with pytest.raises(ValueError, match="unknown histogram layout"):
        layout("int8")


def test_values_outside_the_float32_window_are_counted_and_the_extremes_exact() -> None:
    x = torch.tensor([0.0, 1e-30, -1e-12, 1.0, 1e6, -3e7])
    h = histogram(x)
    below, above = outside(h)
    assert (below, above) == (3, 2)
    assert (h.min, h.max) == (-3e7, 1e6)
    assert abs_quantile(h, 1.0) == 3e7
    assert quantile(h, 0.0) == -3e7


@settings(max_examples=200)
@given(values(), st.floats(0, 1))
def test_silu_never_expands_any_quantile(x: Tensor, q: float) -> None:
    """|silu(x)| <= |x|, so the SiLU gain is at most 1 at every quantile: the seed's 'expansion' is impossible."""
    before, after = histogram(x), histogram(F.silu(x))
    assert abs_quantile(after, q) <= abs_quantile(before, q)


def test_counts_do_not_saturate() -> None:
    """float32 counters stop at 2^24, half ones at 2048; these go on."""
    one = np.zeros(BINS, np.int64)
    one[SIGN - 1] = 2**40
    h = Histogram.from_dense(FLOAT32, one, 1.0, 1.0)
    assert (h + h).n == 2**41


@pytest.mark.parametrize("most", [2**31 - 1, 2**31])
def test_counts_of_32_bits_add_up_beyond_them(most: int) -> None:
    """Codes of 1 and of its neighbours, positive and negative, as many values in each as 32 bits hold, or one more."""
    dense = np.zeros(BINS, np.int64)
    one = 15 << 10
    codes = np.array([one, one + 1, one + 4, one | SIGN])
    dense[codes] = most
    h = Histogram.from_dense(FLOAT32, dense, -1.0, 1.01)
    assert h.counts.dtype == (np.int32 if most < 2**31 else np.int64)
    stack = Histogram.stack([h, h, h])
    assert stack.n.tolist() == [4 * most] * 3
    assert (stack + stack).n.tolist() == [8 * most] * 3
    assert stack.total().counts.tolist() == [3 * most] * 4
    wide = stack.coarser(FLOAT32_FOLDS)
    assert wide.counts[0].tolist() == [2 * most, most, most]
    assert wide.finer(Histogram.stack([stack.total()])).n.tolist() == [4 * most] * 3
    assert stack.magnitudes.counts[0].tolist() == [2 * most, most, most]
    sums = FoldSums(stack, np.ones((1, 3), bool))
    assert sums.counts.tolist() == [[3 * most] * 4]
    assert sums.between(np.array([0, 4])).tolist() == [[12 * most]]


def test_an_empty_histogram_has_no_quantile() -> None:
    h = Histogram.from_dense(FLOAT32, np.zeros(BINS, np.int64), np.inf, -np.inf)
    assert np.isnan(abs_quantile(h, 0.5))
    assert np.isnan(h.absmax)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        abs_quantile(h, 1.5)


def test_a_quantile_does_not_depend_on_how_its_histogram_came_about() -> None:
    """A part without negative values knows its least magnitude exactly; the whole must not read it off that."""
    a, b = histogram(torch.ones(2)), histogram(torch.tensor([1.0, -1.0]))
    folds = Histogram.stack([a, histogram(torch.ones(1)), b])
    first_two = FoldSums(folds, np.array([[True, True, False]]))
    assert first_two.abs_quantile(0.9)[0] == abs_quantile(a + histogram(torch.ones(1)), 0.9)
    assert abs_quantile(folds.total(), 0.9) == abs_quantile(a + histogram(torch.ones(1)) + b, 0.9)
