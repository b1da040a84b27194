"""The limits of the window of float32, and what lies on either side of each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sweep.core.errors import UsageError
from sweep.quantization import window
from sweep.quantization.bins import BFLOAT16, FLOAT32, SIGN, Layout
from sweep.quantization.histogram import Histogram
from sweep.quantization.site_statistics import SiteStatistics
from sweep.quantization.statistics import Statistics
from tests.plain_sites import plain_site

ONE, EVEN, TOP = 15 << 10, 1023, 0x7C00  # the codes of 1, of the last evenly spaced bin, of infinity
UNIT = 2.0**-24


def total(counts: dict[int, int], layout: Layout = FLOAT32, size: float = 1.0) -> Histogram:
    dense = np.zeros(65_536, np.int64)
    dense[list(counts)] = list(counts.values())
    return Histogram.from_dense(layout, dense, -size, size)


def site(layout: Layout = FLOAT32, size: float = 1.0) -> SiteStatistics:
    """A site of one value in all, in this layout."""
    plain = plain_site(torch.full((1, 1, 1, 1), size))
    assert plain.pooled
    return replace(
        plain, histogram=replace(plain.histogram, layout=layout), pooled=replace(plain.pooled, layout=layout)
    )


@pytest.mark.parametrize("k", [-100, 0, 1, 14, 60])
def test_the_largest_magnitude_is_moved_below_two_to_the_fifteenth(k: int) -> None:
    assert window.shift(2.0**14 * 2.0**-k) == k
    assert window.shift(float(np.nextafter(2.0**15, 0)) * 2.0**-k) == k
    assert window.shift(2.0**15 * 2.0**-k) == k - 1


def test_channels_that_lie_outside_are_moved() -> None:
    plain, moved = site(), site(FLOAT32.times(3))
    below = float(np.nextafter(2.0**-14, 0))
    for size, outside in ((65520.0, True), (65519.0, False), (2.0**-14, False), (below, True), (0.0, False)):
        assert window.of_group(plain, size) == (window.shift(size) if outside else 0)
        assert window.of_group(site(BFLOAT16), size) == 0
    assert window.of_group(moved, 1.0) == 14
    assert window.of_group(site(FLOAT32.times(-3)), 1.0) == 14
    assert window.of_group(moved, 0.0) == 0


def test_sites_beyond_the_window_are_observed_again() -> None:
    sizes = {"in": 1.0, "above": 1e5, "below": 1e-5}
    sites = {(0, name): site(size=size) for name, size in sizes.items()}
    sites[0, "exact"] = site(BFLOAT16, 1e5)
    sites[0, "moved"] = site(FLOAT32.times(-2), 1e5)
    assert window.shifts(Statistics(sites, {})) == {(0, "above"): -2, (0, "below"): 31}


def test_what_was_observed_again_takes_its_place_but_for_the_quantiles_of_texts() -> None:
    texts = {"text_alphas": np.array([0.5]), "text_quantiles": (np.ones((1, 1, 3)),)}
    first = Statistics({(0, "a"): replace(site(), **texts), (0, "b"): replace(site(), **texts)}, {"n_layer": 1})  # type: ignore[arg-type]
    again = site(FLOAT32.times(1))
    merged = window.merged(first, Statistics({(0, "b"): again}, {}))
    assert merged.meta == {"n_layer": 1}
    assert list(merged.sites) == [(0, "a"), (0, "b")]
    assert merged.sites[0, "a"] is first.sites[0, "a"]
    new = merged.sites[0, "b"]
    assert new.histogram is again.histogram
    assert new.text_alphas is texts["text_alphas"]
    assert new.text_quantiles is texts["text_quantiles"]


def test_how_many_values_lie_in_the_bins_at_the_ends() -> None:
    counts = {0: 1, SIGN: 2, 1: 4, ONE: 8, TOP - 1: 16, TOP: 32, SIGN | TOP: 64}
    assert [n.tolist() for n in window.outside(total(counts))] == [3, 96]
    both = Histogram.stack([total(counts), total({ONE: 1}), total({SIGN: 5})])
    assert [n.tolist() for n in window.outside(both)] == [[3, 0, 5], [96, 0, 0]]
    assert [n.tolist() for n in window.outside(total(counts, BFLOAT16))] == [0, 0]
    exact = window.outside(replace(both, layout=BFLOAT16))
    assert [n.tolist() for n in exact] == [[0, 0, 0], [0, 0, 0]]
    assert exact[0].dtype == np.int64


@pytest.mark.parametrize(
    ("counts", "size", "beyond"),
    [
        ({EVEN: 99, ONE: 1}, 1.0, False),  # 99 in 100 may lie there, not more
        ({SIGN | EVEN: 100, ONE: 1}, 1.0, True),
        ({EVEN + 1: 100}, 1.0, False),
        ({0: 100}, 0.0, False),
        ({0: 100}, 1e-9, True),
        ({ONE: 10**6, TOP: 1}, 1.0, True),
        ({}, -np.inf, False),
    ],
)
def test_a_site_needs_others_bins(counts: dict[int, int], size: float, beyond: bool) -> None:
    assert window._beyond(total(counts, size=size)) is beyond


@pytest.mark.parametrize("shift", [0, 5])
def test_bins_too_coarse_for_what_was_read_off_them_are_refused(shift: int) -> None:
    """A clip of fewer than 128 bins; an error below 16 times that of rounding to bins, unit^2 / 12, of the share of
    values in evenly spaced ones, here a half."""
    layout, unit = FLOAT32.times(shift), UNIT * 2.0**-shift
    half = total({EVEN: 5, ONE: 5}, layout)
    least = 16 * 0.5 * unit**2 / 12
    window.check(half, 128 * unit, least * 1.000001)
    window.check(half, 0.0, 1.0)
    for clip, mse in ((127.999 * unit, 1.0), (unit, 1.0), (1.0, least * 0.999999)):
        with pytest.raises(UsageError):
            window.check(half, clip, mse)
    window.check(total({ONE: 1}, layout), 1.0, 0.0)
    with pytest.raises(UsageError):
        window.check(total({ONE: 99, TOP: 1}, layout), 1.0, 1.0)
    window.check(total({TOP: 1}, layout, size=0.0), unit, 0.0)  # zeros cost nothing
    window.check(total({}, layout, size=-np.inf), np.nan, np.nan)
    window.check(replace(half, layout=BFLOAT16), unit, 0.0)


def test_it_says_what_the_bins_span() -> None:
    with pytest.raises(UsageError) as error:
        window.check(total({ONE: 1}, FLOAT32.times(1), size=1234.5), 2.0**-20, 1.0)
    assert str(error.value) == (
        "values of up to 1.23e+03 with a clip at 9.54e-07 span more than the bins that float32 is counted in "
        "(3e-08 to 3.28e+04); dtype=bfloat16 is exact at any magnitude"
    )
