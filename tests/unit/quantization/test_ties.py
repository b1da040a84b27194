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
    """A thousand times 0.125 and one 1: at a clip of 1 each has a code of its own, P = Q; at a clip between both P and
    Q are one bin. Every divergence is 0, and one that clips is as good as one that does not."""
    x = torch.tensor([0.125] * 1000 + [1.0], dtype=torch.bfloat16)
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


def test_mse_takes_the_first_of_zero_points_that_cost_the_same() -> None:
    """-1 and 1 in 256 codes: 127 steps on one side and 128 on the other, either way round, at scale 255 / 32513."""
    low, high = mse.clip(histogram(torch.tensor([-1.0, 1.0], dtype=torch.bfloat16)), formats.named("int8_asym"))
    placed = formats.named("int8_asym").place(low[0], high[0])
    assert placed.scale == pytest.approx(255 / 32513, rel=1e-9)
    assert placed.zero_point == 127
