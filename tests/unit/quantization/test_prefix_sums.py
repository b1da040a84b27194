"""Running sums against sums over the values, one by one."""

from __future__ import annotations

import numpy as np
import pytest

from sweep.quantization import formats, prefix_sums
from sweep.quantization.fold_sums import FoldSums
from sweep.quantization.prefix_sums import Sums
from sweep.quantization.types import Floats
from tests.distributions import stack, tensor

RNG = np.random.default_rng(0)
X = np.sort(RNG.standard_normal(60) * np.exp(RNG.standard_normal(60)))
COUNTS = RNG.integers(0, 5, (3, 60)).astype(np.float64)
LOPSIDED = np.array([-3.0, -1.5, 0.0, 1.0, 2.5])
CODES = {"mirrored": formats.named("e2m1").codes, "lopsided": LOPSIDED, "magnitudes": np.arange(8.0)}
SCALES = np.exp(RNG.uniform(-4, 1, 700))  # more than are looked up at a time
TOP = np.array([0.3, 1.0, 7.0])


def nearest(x: Floats, levels: Floats) -> Floats:
    """Positions of the nearest levels [L] to x [m]; no x here lies half-way."""
    return np.abs(x[:, None] - levels).argmin(1)


def errors(x: Floats, levels: Floats) -> Floats:
    return np.square(x - levels[nearest(x, levels)])


@pytest.mark.parametrize("x", [X, np.abs(X[::-1][:9])[::-1]], ids=["signed", "nine"])
@pytest.mark.parametrize("codes", CODES.values(), ids=CODES)
def test_a_scale_costs_the_squared_errors_of_its_nearest_levels(x: Floats, codes: Floats) -> None:
    x, counts = np.sort(x), COUNTS[:, : len(x)]
    expected = np.array([counts @ errors(x, scale * codes) for scale in SCALES])
    sums = Sums(x, counts)
    np.testing.assert_allclose(sums.cost(SCALES, codes), expected, rtol=1e-9, atol=1e-9)
    each = SCALES[:6].reshape(2, 3)
    of_each = np.array([[COUNTS[r, : len(x)] @ errors(x, s * codes) for r, s in enumerate(row)] for row in each])
    np.testing.assert_allclose(sums.cost_each(each, codes), of_each, rtol=1e-9, atol=1e-9)
    moved = codes * np.array([[1.0, 2.0, 0.5], [1.5, 3.0, 1.0]])[..., None]  # codes of its own for every member
    of_moved = [[COUNTS[r, : len(x)] @ errors(x, each[p, r] * moved[p, r]) for r in range(3)] for p in range(2)]
    np.testing.assert_allclose(sums.cost_each(each, moved), of_moved, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("zeros", [slice(0, 16), slice(3, 7), slice(15, 16)], ids=str)
def test_a_zero_point_costs_the_squared_errors_of_its_nearest_levels(zeros: slice) -> None:
    scales = SCALES[:150] / 4
    got = Sums(X, COUNTS).cost_shifted(scales, 16, zeros)
    for z, zero in enumerate(range(16)[zeros]):
        expected = [COUNTS @ errors(X, scale * (np.arange(16.0) - zero)) for scale in scales]
        np.testing.assert_allclose(got[:, z], expected, rtol=1e-9, atol=1e-9)
    assert got.shape == (150, zeros.stop - zeros.start, 3)


def test_clipping_alone_costs_what_lies_beyond_the_end() -> None:
    expected = [(COUNTS * np.square(np.maximum(X - end, 0))).sum(1) for end in TOP]
    np.testing.assert_allclose(Sums(X, COUNTS).beyond(TOP), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("codes", CODES.values(), ids=CODES)
def test_a_step_of_lloyd_fits_the_scale_to_the_codes_that_it_gives(codes: Floats) -> None:
    """The least squares of x - s q over s, with q of the scale before: sum x q / sum q^2."""
    scales = SCALES[:12].reshape(4, 3)
    q = [[codes[nearest(X, scale * codes)] for scale in row] for row in scales]
    expected = [
        [np.sum(COUNTS[r] * X * q[p][r]) / np.sum(COUNTS[r] * q[p][r] ** 2) for r in range(3)] for p in range(4)
    ]
    np.testing.assert_allclose(Sums(X, COUNTS).fit(scales, codes), expected, rtol=1e-9)


def test_a_scale_that_gives_zeros_alone_stays_and_so_does_one_whose_codes_point_away() -> None:
    sums = Sums(np.array([-0.1, 0.1, 0.2]), np.array([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]))
    codes = np.array([0.0, 1.0])
    assert sums.fit(np.ones((1, 3)), codes).tolist() == [[1.0, 1.0, 1.0]]  # all become 0
    # at -0.3 the border lies at -0.15: all values become 1. The best scale of -0.1 and 0.2 is 0.05; of others none is
    # above zero, and theirs stays
    assert sums.fit(np.full((1, 3), -0.3), codes)[0] == pytest.approx([0.05, -0.3, -0.3])


def test_a_step_of_lloyd_divides_by_no_zero_and_by_numbers_below_one() -> None:
    rounded = Sums(np.array([13 / 64]), np.array([[4.0]]))  # all become 0, and their sum 4e-16 by rounding
    assert rounded.fit(np.array([[1.0]]), np.array([0, 1.1, 4.8])).tolist() == [[1.0]]
    few = Sums(np.array([0.2, 0.6]), np.array([[1e-6, 1e-6]]))  # as squared gradients weigh
    assert few.fit(np.array([[1.0]]), np.array([0.0, 0.5, 1.0]))[0] == pytest.approx([0.6 / 0.5])


@pytest.mark.parametrize("name", ["student", "silu"])
def test_of_a_stack_they_are_over_its_values_or_their_magnitudes(name: str) -> None:
    values = [tensor(name).bfloat16()[start : start + 500] for start in (0, 500)]
    histogram = FoldSums(stack(*values), np.array([[True, False], [True, True]]))
    for sums, of in ((prefix_sums.signed(histogram), lambda v: v), (prefix_sums.folded(histogram), np.abs)):
        one = of(values[0].double().numpy())
        both = np.concatenate([one, of(values[1].double().numpy())])
        assert sums.x.tolist() == np.unique(both).tolist()
        assert sums.count.tolist() == [500, 1000]
        np.testing.assert_allclose(sums.first, [one.sum(), both.sum()], rtol=1e-9)
        np.testing.assert_allclose(sums.second, [np.square(one).sum(), np.square(both).sum()], rtol=1e-9)
        np.testing.assert_allclose(sums.cost(TOP, LOPSIDED)[:, 1], [errors(both, s * LOPSIDED).sum() for s in TOP])
