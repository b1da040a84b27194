"""minmax and percentile of a few known values, by hand, and how much the clips of folds scatter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sweep.core.errors import UsageError
from sweep.quantization import formats, replicates
from sweep.quantization.methods import minmax, percentile, registry
from sweep.quantization.methods.method import Method, Observed, Reads, argmin, bound
from sweep.quantization.methods.registry import METHODS, Clips
from tests.distributions import histogram
from tests.plain_sites import plain_site

INT8, ASYMMETRIC = formats.named("int8"), formats.named("int8_asym")
VALUES = Observed(
    histogram(
        torch.tensor([-9.0, -2.0, -1.0, 1.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0]).bfloat16(),  # ranks 0 … 10
        torch.zeros(0).bfloat16(),
        -torch.arange(1.0, 12.0).bfloat16(),
    )
)


def ends(of: tuple[np.ndarray, np.ndarray]) -> list[tuple[float, float]]:
    low, high = of
    assert np.isnan([low[1], high[1]]).all()
    return [(low[k], high[k]) for k in (0, 2)]


def test_minmax_by_hand() -> None:
    assert ends(minmax.clip(VALUES, None, INT8)) == [(-10, 10), (-11, 11)]
    assert ends(minmax.clip(VALUES, None, ASYMMETRIC)) == [(-9, 10), (-11, -1)]


def test_percentile_by_hand() -> None:
    """Magnitudes 1 1 2 3 4 5 6 7 8 9 10; of 11 values the 0.75-quantile has rank 8 (7.5 up), the 0.25-quantile 3."""
    assert ends(percentile.clip(VALUES, 0.75, INT8)) == [(-8, 8), (-9, 9)]
    assert ends(percentile.clip(VALUES, 0.75, ASYMMETRIC)) == [(1, 7), (-8, -3)]
    assert ends(percentile.clip(VALUES, 0.25, INT8)) == [(-3, 3), (-4, 4)]
    assert ends(percentile.clip(VALUES, 0.25, ASYMMETRIC)) == [(1, 7), (-8, -3)]  # the same ends, in order


@pytest.mark.parametrize("format", [INT8, ASYMMETRIC], ids=str)
def test_of_everything_percentile_is_minmax(format: formats.Format) -> None:
    assert ends(percentile.clip(VALUES, 1, format)) == ends(minmax.clip(VALUES, None, format))


def test_of_everything_in_float32_percentile_is_minmax_of_every_set_of_folds() -> None:
    """Where the bins of single folds are wide ones, of which their extremes know more."""
    site = plain_site(torch.rand(4, 1, 1000, 1, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    for sets in (site.replicates, site.sections):
        of_sets = Observed(sets.observed, sets.members, site)
        for got, expected in zip(
            percentile.clip(of_sets, 1.0, ASYMMETRIC), minmax.clip(of_sets, None, ASYMMETRIC), strict=True
        ):
            assert got.tolist() == expected.tolist()


def test_one_value_is_both_extremes() -> None:
    one = Observed(histogram(torch.tensor([-3.0]).bfloat16()))
    assert [end.tolist() for end in minmax.clip(one, None, ASYMMETRIC)] == [[-3], [-3]]


def test_a_quantile_scatters_less_the_more_values_lie_beyond_it() -> None:
    """Four folds of 30 values: beyond the 0.9-quantile lie 12 of all, 6 of two folds."""
    site = plain_site(torch.randn(4, 3, 5, 2))
    for members, beyond in (([True] * 4, 12), ([True, False, True, False], 6)):
        rate = percentile.rate(site, np.array(members), 0.9)
        assert rate == pytest.approx(replicates.rate_of_quantile(beyond, sum(members)))


def test_a_minimum_of_a_rough_loss_converges_with_the_cube_root() -> None:
    site = plain_site(torch.randn(8, 1, 5, 2))
    assert argmin(site, np.ones(8, bool), None) == pytest.approx(1 / 4)
    assert argmin(site, np.arange(8) == 2, None) == 1
    assert bound(site, np.ones(8, bool), None) == 1


def test_the_scale_of_a_clip() -> None:
    """With a zero point it spans zero, whether or not the values do."""
    low, high = np.array([-2.0, 1.0, -8.0, 0.5]), np.array([3.0, 4.0, -1.0, 0.75])
    assert Clips(ASYMMETRIC, low, high).scale.tolist() == [5 / 255, 4 / 255, 8 / 255, 0.75 / 255]
    assert Clips(INT8, -high, high).scale.tolist() == [3 / 127, 4 / 127, -1 / 127, 0.75 / 127]


def test_a_method_has_its_name_or_is_refused() -> None:
    assert {name: str(registry.named(name)) for name in METHODS} == {name: name for name in METHODS}
    with pytest.raises(UsageError, match=r"method=mean is unknown; allowed: minmax, percentile, .*loss"):
        registry.named("mean")
    plain = Method("plain", "", minmax.clip)
    assert (plain.uses_alpha, plain.searches, plain.reads, plain.reads_maxima) == (False, False, Reads.HISTOGRAM, False)


def test_the_clip_by_a_method_is_in_its_format() -> None:
    clips = registry.clip(VALUES.histogram, METHODS["percentile"], 0.75, ASYMMETRIC)
    assert clips.format is ASYMMETRIC
    assert (clips.low[0], clips.high[0]) == (1, 7)


def test_the_jackknife_error_by_hand() -> None:
    """Replicates 1, 2, 6: mean 3, squares 4 + 1 + 9 = 14, times 2/3."""
    error = registry.jackknife_error(np.array([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]]))
    assert error == pytest.approx([np.sqrt(28 / 3), 0])
    assert registry.jackknife_error(np.array([1.0, 3.0])) == pytest.approx(1)
    alone = registry.jackknife_error(np.zeros((2, 3, 1)))
    assert alone.shape == (2, 3)
    assert np.isnan(alone).all()
