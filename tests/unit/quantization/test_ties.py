"""Of clips that cost the same the largest is taken: whoever repeats a calibration gets the same answer, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sweep.quantization import formats
from sweep.quantization.methods import entropy, mse
from tests.distributions import histogram


@pytest.mark.parametrize("format", ["int8", "int4", "int8_asym"])
def test_entropy_takes_the_largest_clip_of_those_that_change_nothing(format: str) -> None:
    """Three times 0.125 and one 1: at a clip of 1 each has a code of its own, P = Q; at a clip between both P and
    Q are one bin. Every divergence is 0, but for rounding, and one that clips is as good as one that does not."""
    x = torch.tensor([0.125] * 3 + [1.0], dtype=torch.bfloat16)
    low, high = entropy.clip(histogram(x), formats.named(format))
    assert high[0] == 1.0
    assert low[0] == (0.125 if format == "int8_asym" else -1.0)  # the least value, where low ends are clipped too


@pytest.mark.parametrize("format", ["int8", "int4", "fp8_e4m3", "e2m1"])
def test_mse_clips_values_that_are_codes_at_the_largest_one(format: str) -> None:
    """With a scale of 1 nothing is lost; one of 1 - 1e-7 loses 1e-14 of the power, which counts as nothing too."""
    codes = formats.named(format).codes
    kept = codes[np.abs(codes) <= formats.named(format).largest]
    low, high = mse.clip(histogram(torch.tensor(kept, dtype=torch.bfloat16)), formats.named(format))
    assert high[0] == formats.named(format).largest
    assert low[0] == -high[0]


def test_mse_takes_the_largest_scale_of_those_that_cost_the_same() -> None:
    """A thousand times 7, and 1 - 2^-8: the scale of least cost is (49000 + 1 - 2^-8) / 49001 = 1 - 8e-8, and that of
    the whole range, 1, costs 3e-10 more, which of a power of 49001 is 6e-15. The clip stays what minmax has."""
    x = torch.tensor([7.0] * 1000 + [1 - 2.0**-8], dtype=torch.bfloat16)
    assert mse.clip(histogram(x), formats.named("int4"))[1][0] == 7.0
    few = torch.tensor([7.0, 1 - 2.0**-8], dtype=torch.bfloat16)  # 1 - 7.8e-5, and 3e-7 of the power: told apart
    assert mse.clip(histogram(few), formats.named("int4"))[1][0] == pytest.approx(7 * (1 - 2.0**-8 / 50), rel=1e-9)


def test_mse_of_zero_points_that_mirror_each_other() -> None:
    """-1 and 1 in 256 codes: 127 steps on one side and 128 on the other, either way round, at scale 255 / 32513."""
    low, high = mse.clip(histogram(torch.tensor([-1.0, 1.0], dtype=torch.bfloat16)), formats.named("int8_asym"))
    placed = formats.named("int8_asym").place(low[0], high[0])
    assert placed.scale == pytest.approx(255 / 32513, rel=1e-9)
    assert placed.zero_point in (127, 128)
