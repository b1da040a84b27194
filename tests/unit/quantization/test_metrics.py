from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sweep.quantization import formats
from sweep.quantization.fold_sums import each
from sweep.quantization.formats import Quantizer
from sweep.quantization.methods import registry as scales
from sweep.quantization.metrics import measure, measure_each, sqnr_each
from tests.distributions import NAMES, histogram, tensor


def plain(x: np.ndarray, quantizer: Quantizer) -> tuple[float, float, float, float]:
    """The definitions, value by value."""
    codes = quantizer.format.codes
    nearest = codes[np.abs(x[:, None] / quantizer.scale + quantizer.zero_point - codes).argmin(1)]
    error = x - (nearest - quantizer.zero_point) * quantizer.scale
    _, used = np.unique(nearest, return_counts=True)
    p = used / len(x)
    mse = np.square(error).mean()
    with np.errstate(divide="ignore"):
        sqnr = 10 * np.log10(np.square(x).mean() / mse)
    return ((x < quantizer.low) | (x > quantizer.high)).mean(), mse, sqnr, -(p * np.log2(p)).sum()


@pytest.mark.parametrize("format", formats.FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_metrics_are_those_of_the_values(name: str, format: str) -> None:
    x = tensor(name, torch.bfloat16)[:4000]
    values = x.double().numpy()
    quantizer = formats.named(format).place(0.6 * values.min(), 0.6 * np.abs(values).max() + 0.01)
    got = measure(histogram(x), quantizer)
    clipped, mse, sqnr, bits = plain(values, quantizer)
    assert got.clip_fraction[0] == clipped
    assert got.mse[0] == pytest.approx(mse, rel=1e-7, abs=1e-14 * np.square(values).mean())
    if mse > 1e-14 * np.square(values).mean():
        assert got.sqnr_db[0] == pytest.approx(sqnr, abs=1e-6)
    # a value half-way between two codes, which argmin gives to the lower one, may count for either
    assert got.code_entropy_bits[0] == pytest.approx(bits, abs=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_members_of_a_stack_are_measured_one_by_one(dtype: torch.dtype) -> None:
    quantizer = formats.named("int8").place(-4, 4)
    parts = [tensor("gaussian", dtype), tensor("student", dtype), 100 * tensor("few", dtype)]
    stack = histogram(*parts)
    together = measure(stack, quantizer)
    for k, part in enumerate(parts):
        alone = histogram(part)
        # the middle of an outermost float32 bin is kept within the extremes, which a stack shares
        shared = each(replace(alone.stack, min=stack.min.min(keepdims=True), max=stack.max.max(keepdims=True)))
        for key, value in vars(measure(shared, quantizer)).items():
            assert getattr(together, key)[k] == pytest.approx(value[0], rel=1e-9), key


def test_float32_metrics_are_off_by_the_width_of_a_bin_at_most() -> None:
    x = tensor("laplace")
    quantizer = formats.named("int8").place(-8, 8)
    got, expected = measure(histogram(x), quantizer), plain(x.double().numpy(), quantizer)
    assert got.sqnr_db[0] == pytest.approx(expected[2], abs=0.02)
    assert got.clip_fraction[0] == pytest.approx(expected[0], abs=1e-4)
    assert got.code_entropy_bits[0] == pytest.approx(expected[3], abs=0.01)


@pytest.mark.parametrize("format", formats.FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_that_are_codes_lose_nothing(format: str, dtype: torch.dtype) -> None:
    quantizer = formats.named(format).place(-0.7, 0.7)
    x = torch.full((50,), 0.7).to(dtype)
    quantizer = formats.named(format).place(-float(x[0]), float(x[0]))
    if not quantizer.format.symmetric:
        quantizer = formats.named(format).place(0.0, float(x[0]))
    got = measure(histogram(x), quantizer)
    assert got.mse[0] < 1e-30
    assert got.clip_fraction[0] == 0
    assert got.code_entropy_bits[0] == 0


@pytest.mark.filterwarnings("error")
def test_zeros_and_nothing() -> None:
    empty, zeros, ones = torch.zeros(0), torch.zeros(10), torch.ones(10)
    got = measure(histogram(empty, zeros, ones), formats.named("int8").place(0.0, 0.0))
    assert np.isnan([got.mse[0], got.sqnr_db[0], got.clip_fraction[0], got.code_entropy_bits[0]]).all()
    assert got.mse[1] == 0
    assert np.isnan(got.sqnr_db[1])
    assert (got.mse[2], got.sqnr_db[2], got.clip_fraction[2]) == (1, 0, 1)
    assert measure(histogram(ones), formats.named("int8").place(-127.0, 127.0)).sqnr_db[0] == np.inf


@pytest.mark.filterwarnings("error")  # no fold of zeros is to be reported as a warning
def test_every_member_with_a_quantizer_of_its_own() -> None:
    """int4: 3.25 at scale 1 loses 1/16 of 10.5625, 22.28 dB; 3.5 at scale 0.5 nothing; -10 at scale 1 is cut to -7."""
    members = [torch.tensor([value], dtype=torch.bfloat16) for value in (3.25, 3.5, -10.0, 0.0)]
    own = [formats.named("int4").place(-high, high) for high in (7.0, 3.5, 7.0, 7.0)]
    sqnr = sqnr_each(histogram(*members), own)
    assert sqnr[:3] == pytest.approx([10 * np.log10(3.25**2 * 16), np.inf, 10 * np.log10(100 / 9)])
    assert np.isnan(sqnr[3])


def test_of_four_values_by_hand() -> None:
    """int4 at scale 1, clipped to 7: 0.5 becomes 0 (half to even), 3 stays, 8 and -9 become 7 and -7, one after another
    with another quantizer of scale 2, clipped to 14: 0, 4 (half to even), 8, -8."""
    values = histogram(torch.tensor([0.5, 3.0, 8.0, -9.0], dtype=torch.bfloat16))
    one, two = measure_each(values, [formats.named("int4").place(-high, high) for high in (7.0, 14.0)])
    assert (one.clip_fraction[0], one.mse[0], one.code_entropy_bits[0]) == (0.5, (0.25 + 0 + 1 + 4) / 4, 2.0)
    assert one.sqnr_db[0] == pytest.approx(10 * np.log10((0.25 + 9 + 64 + 81) / 5.25))
    assert (two.clip_fraction[0], two.mse[0], two.code_entropy_bits[0]) == (0.0, (0.25 + 1 + 0 + 1) / 4, 2.0)
    assert two.sqnr_db[0] == pytest.approx(10 * np.log10(154.25 / 2.25))


def test_half_way_values_have_the_even_code() -> None:
    """0.5 shares the code of 0, and 1.5 that of 2."""
    for pair in ([0.0, 0.5], [1.5, 2.0], [-0.5, 0.0], [-1.5, -2.0]):
        got = measure(histogram(torch.tensor(pair, dtype=torch.bfloat16)), formats.named("int4").place(-7.0, 7.0))
        assert got.code_entropy_bits[0] == 0


def test_at_scale_zero_all_is_lost() -> None:
    values = histogram(torch.tensor([1.0, 2.0, 3.0, -1.0], dtype=torch.bfloat16))
    for format in ("int8", "int8_asym"):
        got = measure(values, formats.named(format).place(0.0, 0.0))
        assert (got.clip_fraction[0], got.mse[0], got.sqnr_db[0], got.code_entropy_bits[0]) == (1.0, 15 / 4, 0.0, 0.0)


def test_the_ends_of_the_clip_are_inside() -> None:
    values = histogram(torch.tensor([-7.0, 7.0, 7.125, -7.125, 0.0], dtype=torch.bfloat16))
    assert measure(values, formats.named("int4").place(-7.0, 7.0)).clip_fraction[0] == pytest.approx(0.4)


@pytest.mark.parametrize("width", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("alpha", [0.9995, 0.999])
def test_what_is_clipped_of_the_pile_that_silu_makes(width: float, alpha: float) -> None:
    """Its minimum of -0.2785 gathers values: a bin there holds more of them than are clipped."""
    drawn = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0)) * width
    x = torch.nn.functional.silu(drawn)
    stack, values = histogram(x), x.double().numpy()
    clips = scales.clip(stack, scales.METHODS["percentile"], alpha, formats.named("int8_asym"))
    quantizer = formats.named("int8_asym").place(float(clips.low[0]), float(clips.high[0]))
    clipped = measure(stack, quantizer).clip_fraction[0]
    assert clipped == pytest.approx(2 * (1 - alpha), rel=0.01)
    assert clipped == pytest.approx(((values < quantizer.low) | (values > quantizer.high)).mean(), rel=0.1)
    assert quantizer.low == pytest.approx(np.quantile(values, 1 - alpha), abs=4e-7)


@pytest.mark.parametrize("format", formats.FORMATS)
def test_minmax_clips_nothing(format: str) -> None:
    for name in NAMES:
        x = tensor(name)
        clips = scales.clip(histogram(x), scales.METHODS["minmax"], None, formats.named(format))
        quantizer = formats.named(format).place(float(clips.low[0]), float(clips.high[0]))
        assert measure(histogram(x), quantizer).clip_fraction[0] == 0, name
