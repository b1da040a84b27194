"""Codebooks against torch's own dtypes, over every representable value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.core.errors import UsageError
from sweep.quantization import formats
from sweep.quantization.formats import Format, Quantizer

FLOAT8 = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}


@pytest.mark.parametrize("name", FLOAT8)
def test_float8_codes_are_all_finite_values_of_torchs_dtype(name: str) -> None:
    every = torch.arange(256, dtype=torch.int16).to(torch.uint8).view(FLOAT8[name]).to(torch.float64).numpy()
    expected = np.unique(every[np.isfinite(every)])  # -0 and 0 are one number
    np.testing.assert_array_equal(formats.named(name).codes, expected)
    assert formats.named(name).largest == torch.finfo(FLOAT8[name]).max


@pytest.mark.parametrize("name", FLOAT8)
def test_float8_rounds_as_torchs_cast(name: str) -> None:
    """Every bfloat16 that does not overflow, the exact midpoints between neighbours among them."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).float()
    format = formats.named(name)
    x = x[x.abs() <= format.largest]  # torch casts what is larger to NaN or infinity; a quantizer saturates
    assert len(x) > 30_000
    expected = x.to(FLOAT8[name]).to(torch.float64).numpy()
    got = format.place(-format.largest, format.largest).quantize(x.double().numpy())
    np.testing.assert_array_equal(got, expected)


def test_e2m1_codes() -> None:
    """OCP Microscaling Formats 1.0, table 5."""
    magnitudes = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    np.testing.assert_array_equal(formats.named("e2m1").magnitudes, magnitudes)
    np.testing.assert_array_equal(formats.named("e2m1").codes, [-m for m in magnitudes[:0:-1]] + magnitudes)


@pytest.mark.parametrize(("name", "count", "largest"), [("int8", 255, 127), ("int4", 15, 7), ("int8_asym", 256, 255)])
def test_integer_codes(name: str, count: int, largest: int) -> None:
    format = formats.named(name)
    assert len(format.codes) == count
    assert format.largest == largest
    np.testing.assert_array_equal(np.diff(format.codes), 1)


@given(st.floats(-300, 300), st.floats(0.01, 10))
def test_int8_rounds_as_torch(x: float, scale: float) -> None:
    quantizer = formats.named("int8").place(-127 * scale, 127 * scale)
    expected = (torch.tensor(x, dtype=torch.float64) / quantizer.scale).round().clamp(-127, 127) * quantizer.scale
    got = quantizer.quantize(np.array([x]))[0]
    # x / scale rounds, so a value within rounding of a midpoint may go either way, at the same error
    assert got == pytest.approx(expected.item()) or abs(abs(got - x) - quantizer.scale / 2) < 1e-9


def test_ties_go_to_even_codes() -> None:
    int8 = formats.named("int8").place(-127, 127)
    np.testing.assert_array_equal(int8.quantize(np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])), [-2, -2, 0, 0, 2, 2])
    assert (formats.named("e2m1").place(-6, 6).quantize(np.array([0.25, 0.75, 2.5, 3.5, 5.0])) == [0, 1, 2, 4, 4]).all()


@pytest.mark.parametrize("name", formats.FORMATS)
def test_representable_values_are_kept_and_the_rest_saturates(name: str) -> None:
    quantizer = formats.named(name).place(-3.0, 5.0)
    np.testing.assert_array_equal(quantizer.quantize(quantizer.levels), quantizer.levels)
    ends = quantizer.quantize(np.array([-1e30, 1e30]))
    np.testing.assert_array_equal(ends, quantizer.levels[[0, -1]])
    assert quantizer.levels[-1] == pytest.approx(5.0, abs=quantizer.scale / 2)


@settings(max_examples=200)
@given(st.floats(-1e4, 1e4), st.floats(0, 1e4))
def test_zero_point(low: float, span: float) -> None:
    """Zero is a level whatever is clipped, and the ends are reached to half a step."""
    quantizer = formats.named("int8_asym").place(low, low + span)
    assert 0 <= quantizer.zero_point <= 255
    assert 0.0 in quantizer.levels
    if quantizer.scale > 1e-300:
        assert abs(quantizer.levels[0] - min(low, 0)) <= quantizer.scale * 0.500001
        assert abs(quantizer.levels[-1] - max(low + span, 0)) <= quantizer.scale * 0.500001


@pytest.mark.parametrize("name", formats.FORMATS)
def test_at_scale_zero_everything_is_zero(name: str) -> None:
    quantizer = formats.named(name).place(0.0, 0.0)
    assert quantizer.scale == 0
    np.testing.assert_array_equal(quantizer.quantize(np.array([-1.0, 0.0, 2.0])), 0)


@pytest.mark.parametrize(
    ("name", "largest", "smallest", "count"),
    [("e3m2", 28, 1 / 16, 63), ("e2m3", 7.5, 1 / 8, 63), ("e5m1", 98304, 2**-15, 127)],
)
def test_small_floats_are_parsed(name: str, largest: float, smallest: float, count: int) -> None:
    """The first two: OCP Microscaling Formats 1.0, tables 3 and 4."""
    format = formats.named(name)
    assert (format.largest, format.magnitudes[1], len(format.codes)) == (largest, smallest, count)
    assert format is formats.named(name)
    assert formats.named("e2m1") is formats.FORMATS["e2m1"]


@pytest.mark.parametrize("name", ["e4m3", "e1m2", "e3m0", "e33m2", "e3m2x", "e9m9"])
def test_floats_of_8_bits_have_names_of_their_own(name: str) -> None:
    with pytest.raises(UsageError, match=f"format={name} is unknown; allowed: int8, .*, eXmY"):
        formats.named(name)


def test_bits() -> None:
    wanted = {"int8": 8, "int4": 4, "int8_asym": 8, "fp8_e4m3": 8, "fp8_e5m2": 8, "e2m1": 4, "e3m2": 6}
    assert {name: formats.named(name).bits for name in wanted} == wanted


def test_unknown_format() -> None:
    with pytest.raises(UsageError, match=r"format=int5 is unknown; allowed: int8, .*did you mean int"):
        formats.named("int5")


def test_every_number_of_a_sign_exponent_and_mantissa() -> None:
    """Of subnormals and of normal numbers, one by one: m / 2^M * 2^(1 - bias), (1 + m / 2^M) * 2^(e - bias)."""
    for exponent, mantissa, bias in ((2, 1, 1), (3, 2, 3), (2, 3, 1), (4, 3, 7)):
        subnormal = [m / 2**mantissa * 2.0 ** (1 - bias) for m in range(2**mantissa)]
        normal = [(1 + m / 2**mantissa) * 2.0 ** (e - bias) for e in range(1, 2**exponent) for m in range(2**mantissa)]
        magnitudes = subnormal + normal
        largest = magnitudes[-3]
        for kept, format in (
            (magnitudes, formats._floats("all", exponent, mantissa)),
            (magnitudes[:-2], formats._floats("some", exponent, mantissa, largest, "some of them")),
        ):
            assert format.codes.tolist() == [-m for m in kept[:0:-1]] + kept
            assert format.symmetric
            assert format.mirrored
        assert (str(format), format.meaning) == ("some", "some of them")
        assert formats._floats("all", exponent, mantissa).meaning == ""


def test_integers_are_as_many_on_both_sides() -> None:
    format = formats._integers("int3", 3, "of three bits")
    assert (str(format), format.meaning, format.codes.tolist()) == ("int3", "of three bits", [-3, -2, -1, 0, 1, 2, 3])
    assert len(formats._integers("int6", 6).codes) == 2**6 - 1
    assert formats._integers("int6", 6).meaning == ""


def test_a_quantizer_by_hand() -> None:
    """With a zero point: -1 and 4 in 5 / 255 steps, 51 of which reach down to -1."""
    both = formats.named("int8_asym")

    def of(quantizer: Quantizer) -> tuple[float, int, float, float]:
        return quantizer.scale, quantizer.zero_point, quantizer.low, quantizer.high

    assert of(formats.named("int8").place(-9.0, 254.0)) == (2, 0, -254, 254)
    assert of(both.place(-1.0, 4.0)) == (5 / 255, 51, -1, 4)
    assert of(both.place(2.0, 5.1)) == (5.1 / 255, 0, 0, 5.1)
    assert of(both.place(-5.1, -2.0)) == (5.1 / 255, 255, -5.1, 0)
    assert of(both.place(0.0, 0.0)) == (0, 0, 0, 0)


def test_what_follows_from_the_codes() -> None:
    lopsided = Format("own", np.array([-3.0, -1.5, 0.0, 1.0, 2.5]))
    assert lopsided.middles.tolist() == [-2.25, -0.75, 0.5, 1.75]
    assert lopsided.magnitudes.tolist() == [0, 1, 2.5]
    assert (lopsided.largest, lopsided.bits, lopsided.mirrored) == (2.5, 3, False)
    assert Format("both", np.array([-0.5, 0.0, 0.5])).mirrored
    assert not Format("with a zero point", np.array([-0.5, 0.0, 0.5]), symmetric=False).mirrored
    assert Format("halves", np.array([-0.5, 0.0, 0.5])).magnitudes.tolist() == [0, 0.5]


def test_small_floats_are_made_once_by_their_name() -> None:
    formats._small_float.cache_clear()
    made = formats.named("E2M3")
    assert (str(made), made.largest, len(made.magnitudes)) == ("e2m3", 7.5, 32)
    assert made is formats.named("e2m3")
