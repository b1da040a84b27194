"""The steps of the search for the clip of least squared error, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sweep.quantization import formats
from sweep.quantization.formats import Format
from sweep.quantization.methods import mse
from sweep.quantization.prefix_sums import Sums
from tests.distributions import histogram

SUMS = Sums(np.array([1.0, 2.0, 4.0]), np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "format", [formats.named("int4"), Format("zero point", np.arange(16.0), symmetric=False)], ids=str
)
def test_one_value_and_zeros_alone(format: Format) -> None:
    one = mse.clip(histogram(torch.tensor([2.0]).bfloat16()), format)
    assert one[1].tolist() == pytest.approx([2.0])
    for zeros in (torch.zeros(1), torch.zeros(3)):
        assert [end.tolist() for end in mse.clip(histogram(zeros.bfloat16()), format)] == [[0], [0]]


def test_clips_that_bound_the_cost_are_half_an_octave_apart() -> None:
    assert mse._coarse(8.0) == pytest.approx([8 / np.sqrt(2) ** k for k in range(32)])


def test_candidates_are_half_the_distance_of_the_largest_codes_apart_at_most_a_hundredth() -> None:
    assert mse._step(formats.named("int8")) == pytest.approx(np.log(1 + 1 / 254))
    assert mse._step(formats.named("int4")) == pytest.approx(np.log(1.01))
    assert mse._step(Format("fine", np.array([-9.0, 0.0, 1.0, 998.0, 1000.0]))) == pytest.approx(np.log(1.001))


def test_no_shorter_clip_can_be_best() -> None:
    """An eighth of an octave below the first end beyond which no more is lost than the bound: (4 - 3.084)^2 < 1."""
    second = np.array([1.0, -1.0])  # the other member has nothing beyond 2, and no end is good enough for it
    assert mse._shortest(SUMS, second, 4.0) == pytest.approx(4 * 2 ** (-4 / 8))
    ends = 4 * np.exp2(-np.arange(256) / 8)
    exactly = SUMS.beyond(ends)
    for k in (3, 100, 254):
        assert mse._shortest(SUMS, np.array([exactly[k, 0], -1]), 4.0) == ends[k + 1]
    assert mse._shortest(SUMS, np.array([exactly[255, 0], -1]), 4.0) == 0
    assert mse._shortest(SUMS, np.array([-1.0, exactly[9, 1]]), 4.0) == ends[10]


def test_lengths_ascend_to_the_top_by_equal_ratios() -> None:
    two = float(np.log(2))
    assert mse._spaced(1.01, 8.0, two) == pytest.approx([1, 2, 4, 8])
    assert mse._spaced(0.99, 8.0, two) == pytest.approx([0.5, 1, 2, 4, 8])
    everything = mse._spaced(0.0, 8.0, 1.7 * two)  # 32 octaves take 19 steps
    assert everything == pytest.approx(8 * np.exp2(-1.7 * np.arange(20)[::-1]))


def test_candidates_beyond_the_first_after_the_limit_are_out() -> None:
    limit = np.array([2.0, 10.0])
    last = 2.0 * (1 + 2 * mse.COARSEST_STEP)
    scales = np.array([1.0, last, np.nextafter(last, 3), 4.0])
    costs = np.arange(8.0).reshape(4, 2)
    assert mse._within(limit, scales, costs).tolist() == [[0, 1], [2, 3], [np.inf, 5], [np.inf, 7]]


def test_eight_times_as_many_candidates_around_the_eight_best_of_each_member() -> None:
    scales = np.arange(1.0, 51)
    costs = np.stack([np.abs(scales - 10.4), np.zeros(50)], 1)  # 7 … 14, and of equal ones the first eight
    between = np.exp(0.1 * np.arange(-3, 5) / 8)
    expected = np.concatenate([scale * between for scale in range(1, 15)])
    np.testing.assert_allclose(mse._around(scales, costs, 0.1), expected)


def test_the_four_lowest_local_minima() -> None:
    one = [5, 1, 1, 7, 0, 6, 2, 2.5, 3, 2.9, 4]  # 0, 1, 1 and 2; 2.9 is the fifth
    other = [0, 3, 4, 2, 5, 6, 7, 8, 9, 1, 0.5]  # at both ends, and 2 between
    got = mse._minima(np.array([one, other]).T)
    assert got[:, 0].tolist() == [4, 1, 2, 6]
    assert got[:3, 1].tolist() == [0, 10, 3]
    assert mse._minima(np.zeros((50, 1)))[:, 0].tolist() == [0, 1, 2, 3]
