"""Rounding by arithmetic is the quantizer's own search among levels and borders, value for value."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from sweep.evaluation.channel_quantizer import Rounding, of_table
from sweep.evaluation.fake_quant import Rounder
from sweep.quantization import formats
from sweep.quantization.formats import FORMATS, Format, Quantizer
from sweep.runs.schemas import SCALES

INT16 = formats._integers("int16", 16)
LOPSIDED = Format("lopsided", np.array([-3.0, -2.5, -1.0, 0.0, 1.0, 2.5, 2.75]))  # of no spacing at all
EVERY = [*FORMATS.values(), INT16, formats.named("e3m2"), formats.named("e5m1"), LOPSIDED]


def rounder(rounding: Rounding) -> Rounder:
    return Rounder(rounding, torch.device("cpu"))


def one(quantizer: Quantizer) -> Rounding:
    return Rounding(quantizer.format, np.array([quantizer.scale]), np.array([float(quantizer.zero_point)]))


def numbers(quantizer: Quantizer) -> np.ndarray:
    """float32: every level, every border between two with its neighbours, and values of all sizes."""
    rng = np.random.default_rng(0)
    middles = (quantizer.levels[1:] + quantizer.levels[:-1]) / 2
    known = np.concatenate([quantizer.levels, middles, [0.0, -0.0]]).astype(np.float32)
    around = [np.nextafter(known, np.float32(side)) for side in (-np.inf, np.inf)]
    wide = rng.standard_normal(200_000) * np.exp2(rng.integers(-30, 12, 200_000)) * quantizer.scale
    ends = np.array([-3e38, 3e38])
    return np.concatenate([known, *around, wide, ends]).astype(np.float32)


@pytest.mark.parametrize("format", EVERY, ids=str)
@pytest.mark.parametrize("scale", [0.0625, 0.0371, 1e-6], ids=["power of two: ties are exact", "any", "tiny"])
def test_it_is_the_quantizer(format: Format, scale: float) -> None:
    low = 0.0 if format.symmetric else -0.27 * scale * format.largest
    quantizer = format.place(low, low + scale * format.largest)
    x = numbers(quantizer)
    expected = quantizer.quantize(x.astype(np.float64))
    found = rounder(one(quantizer))(torch.from_numpy(x))
    assert found.dtype is torch.float32
    np.testing.assert_array_equal(found.numpy(), expected.astype(np.float32))
    for dtype in (torch.bfloat16, torch.float16):
        narrow = torch.from_numpy(x).to(dtype)
        narrow = narrow[narrow.isfinite()]
        exact = torch.from_numpy(quantizer.quantize(narrow.double().numpy())).to(dtype)
        assert torch.equal(rounder(one(quantizer))(narrow), exact)


@pytest.mark.parametrize("format", EVERY, ids=str)
def test_at_scale_zero_everything_is_zero(format: Format) -> None:
    x = torch.tensor([-1.0, 0.0, 3.0, 1e-30])
    assert torch.equal(rounder(one(format.place(0.0, 0.0)))(x), torch.zeros(4))


@pytest.mark.parametrize("format", EVERY, ids=str)
def test_every_channel_has_its_own(format: Format) -> None:
    rng = np.random.default_rng(1)
    ends = np.stack([-rng.random(12), rng.random(12) + 0.1])
    if format.symmetric:
        ends[0] = -ends[1]
    quantizers = [format.place(*pair) for pair in ends.T.tolist()]
    x = (rng.standard_normal((2, 50, 12)) * 0.7).astype(np.float32)
    expected = np.stack([q.quantize(x[..., c].astype(np.float64)) for c, q in enumerate(quantizers)], -1)
    rounding = Rounding(
        format, np.array([q.scale for q in quantizers]), np.array([float(q.zero_point) for q in quantizers])
    )
    np.testing.assert_array_equal(rounder(rounding)(torch.from_numpy(x)).numpy(), expected.astype(np.float32))


def test_equal_fingerprints_round_alike() -> None:
    first = Rounding(FORMATS["int8"], np.array([0.5]), np.zeros(1))
    assert first.fingerprint == Rounding(FORMATS["int8"], np.array([0.5]), np.zeros(1)).fingerprint
    others = [
        Rounding(FORMATS["int4"], np.array([0.5]), np.zeros(1)),
        Rounding(FORMATS["int8"], np.array([np.nextafter(0.5, 1)]), np.zeros(1)),
        Rounding(FORMATS["int8"], np.array([0.5]), np.ones(1)),
        Rounding(FORMATS["int8"], np.array([0.5, 0.5]), np.zeros(2)),
    ]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 5


def scales(rows: list[dict[str, object]]) -> pa.Table:
    return pa.Table.from_pylist([{"format": "int8_asym", **row} for row in rows], SCALES)


def test_the_table_s_rows_become_roundings() -> None:
    table = scales(
        [
            {"layer": 3, "site": "x_conv_out", "scale": 0.5, "zero_point": 7},
            {"layer": 3, "site": "x_conv_pre", "scale": 0.25},
            {"layer": 4, "site": "x_conv_out", "scale": 0.125},
        ]
    )
    found = of_table(table, ["x_conv_out"], {})
    assert {key: (str(r.format), r.scale.tolist(), r.zero_point.tolist()) for key, r in found.items()} == {
        (3, "x_conv_out"): ("int8_asym", [0.5], [7.0]),
        (4, "x_conv_out"): ("int8_asym", [0.125], [0.0]),
    }


def test_groups_reach_their_channels() -> None:
    table = scales(
        [
            {"layer": 0, "site": "x_conv_out", "ssd_group": 0, "head_group": h, "dim_group": d, "scale": s}
            for h, d, s in [(0, 0, 1.0), (0, 1, 2.0), (1, 0, 4.0)]
        ]
    )
    parts = {
        (0, "x_conv_out"): [((0, 1, 0), np.array([5, 0])), ((0, 0, 0), np.array([1, 4])), ((0, 0, 1), np.array([3, 2]))]
    }
    assert of_table(table, ["x_conv_out"], parts)[0, "x_conv_out"].scale.tolist() == [4, 1, 2, 2, 1, 4]
    with pytest.raises(ValueError, match="3 scales for x_conv_out of layer 0, and nothing says of which channels"):
        of_table(table, ["x_conv_out"], {})
    parts[0, "x_conv_out"][0] = ((0, 1, 0), np.array([5, 1]))
    with pytest.raises(ValueError, match="overlap"):
        of_table(table, ["x_conv_out"], parts)
