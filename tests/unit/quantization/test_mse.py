"""The clip of least squared error, of few values: the optimum itself, to the last digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sweep.quantization import formats
from sweep.quantization.formats import Format
from sweep.quantization.methods import mse
from sweep.quantization.types import Floats
from tests.distributions import histogram, tensor

FORMATS = [
    formats.named("int4"),
    formats.named("e2m1"),
    Format("lopsided", np.array([-3.0, -1.5, 0.0, 1.0, 2.5])),
    Format("zero point", np.arange(16.0), symmetric=False),
]


def optimum(x: Floats, codes: Floats, limit: float, weights: Floats | float = 1.0) -> tuple[float, float]:
    """The least sum of w (x - s q)^2 over scales s up to a limit, and the s that has it.

    Codes q change at scales that put some x half-way between two; between two such scales they are fixed, and the sum
    is a parabola in s."""
    middles = (codes[1:] + codes[:-1]) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        change = (x[:, None] / middles).ravel()
    ends = np.unique(np.concatenate([[0.0, limit], change[(change > 0) & (change < limit)]]))
    between = (ends[1:] + ends[:-1]) / 2
    q = codes[(x[:, None] > between[:, None, None] * middles).sum(-1)]
    square = (weights * np.square(q)).sum(1)
    fit = np.divide((weights * x * q).sum(1), square, out=ends[1:].copy(), where=square > 0)
    scale = np.clip(fit, ends[:-1], ends[1:])
    cost = (weights * np.square(x - scale[:, None] * q)).sum(1)
    return float(cost.min()), float(scale[cost.argmin()])


def best(x: Floats, format: Format, weights: Floats | float = 1.0) -> tuple[float, float]:
    """Of a format, at any zero point if it has one, where a clip goes no further than the values do."""
    if format.symmetric:
        return optimum(x, format.codes, np.abs(x).max() / format.largest, weights)
    limit = (max(x.max(), 0.0) - min(x.min(), 0.0)) / format.largest
    return min(optimum(x, format.codes - zero, limit, weights) for zero in format.codes)


def draw(seed: int, number: int = 60) -> torch.Tensor:
    random = np.random.default_rng(seed)
    drawn = random.standard_normal(number) * np.exp(random.standard_normal(number)) * 10.0 ** (seed % 4 - 2)
    return torch.tensor([drawn, np.abs(drawn), -np.abs(drawn)][seed % 3]).bfloat16()


def costs_as_little(x: torch.Tensor, format: Format, low: float, high: float) -> None:
    values, quantizer = x.double().numpy(), format.place(low, high)
    cost, scale = best(values, format)
    assert np.square(values - quantizer.quantize(values)).sum() == pytest.approx(cost, rel=1e-9)
    assert quantizer.scale == pytest.approx(scale, rel=1e-9)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_it_is_the_least_of_all_parabolas(format: Format) -> None:
    for seed in range(6):
        low, high = mse.clip(histogram(draw(seed)), format)
        costs_as_little(draw(seed), format, low[0], high[0])
    for seed in range(12):
        low, high = mse.clip(histogram(draw(seed, 5)), format)
        costs_as_little(draw(seed, 5), format, low[0], high[0])


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_members_of_all_magnitudes_have_each_its_own(format: Format) -> None:
    """From a hundredth to ten, of one sign or both, beside one of nothing and one of zeros."""
    members = [draw(seed) for seed in range(6)]
    low, high = mse.clip(histogram(*members, torch.zeros(0).bfloat16(), torch.zeros(3).bfloat16()), format)
    for k, x in enumerate(members):
        costs_as_little(x, format, low[k], high[k])
    assert np.isnan([low[6], high[6]]).all()
    assert (low[7], high[7]) == (0, 0)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_one_outlier_may_take_most_of_the_range_away(format: Format) -> None:
    """Eighty small values beside one of 10: the best clip may lie far below it."""
    for power in (0, 2, 4):
        x = torch.cat([draw(0, 80) * 2.0**-power, torch.tensor([10.0])]).bfloat16()
        low, high = mse.clip(histogram(x), format)
        costs_as_little(x, format, low[0], high[0])


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_a_member_that_loses_nothing_does_not_bound_the_clips_of_another(format: Format) -> None:
    """One whose values are 4096 times codes beside one whose best clip lies far below its largest value, as it does
    without the other."""
    exact, other = torch.from_numpy(format.codes * 4096).bfloat16(), tensor("student", torch.bfloat16)[:4000]
    low, high = mse.clip(histogram(exact, other), format)
    alone = mse.clip(histogram(other), format)
    assert (low[1], high[1]) == pytest.approx((alone[0][0], alone[1][0]), rel=1e-9)
