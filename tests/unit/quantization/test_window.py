"""float32 at any magnitude: right, or refused; never a number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sweep.calibration.loop import gather
from sweep.calibration.observer import Observer
from sweep.core.errors import UsageError
from sweep.quantization import bins, formats, site_scales, window
from sweep.quantization.histogram import Histogram
from sweep.quantization.methods.method import Method
from sweep.quantization.methods.registry import METHODS
from sweep.quantization.site_statistics import SiteStatistics
from sweep.quantization.statistics import Statistics
from tests.distributions import tensor

KEY = (0, "s")


class Nothing:
    """As much of a network as `gather` asks for."""

    class Mixer:
        layer, sites = 0, ("s",)

        def weight_absmax(self) -> dict[str, float]:
            return {}

    mixers, geometry = (Mixer(),), {}


def observed(x: Tensor, shifts: dict[tuple[int, str], int] | None = None) -> Statistics:
    """Of four folds."""
    parts = []
    for fold, part in enumerate(x.reshape(4, 1, -1, 10)):
        observer = Observer(shifts=shifts)
        observer(*KEY, part)
        parts.append(gather(Nothing(), fold, 1, observer.finish()))  # type: ignore[arg-type]
    return Statistics.merge(parts)


def site(x: Tensor) -> SiteStatistics:
    """As a cell observes it: once more where that is needed."""
    first = observed(x)
    again = window.shifts(first)
    return window.merged(first, observed(x, again)).sites[KEY] if again else first.sites[KEY]


def read(s: SiteStatistics, method: Method, alpha: float | None, format: str) -> site_scales.Reading:
    return site_scales.of_histograms([(site_scales.WHOLE, s)], method, alpha, formats.named(format))


@pytest.mark.parametrize("power", [-125, -100, -60, -40, -30, -26, -20, 15, 17, 30, 60, 110])
@pytest.mark.parametrize(
    ("method", "alpha", "format"),
    [
        (METHODS["percentile"], 0.999, "int8"),
        (METHODS["percentile"], 0.999, "int8_asym"),
        (METHODS["mse"], None, "int8"),
        (METHODS["minmax"], None, "fp8_e4m3"),
        (METHODS["entropy"], None, "int8"),
    ],
)
def test_a_power_of_two_changes_nothing_but_the_magnitude(
    power: int, method: Method, alpha: float | None, format: str
) -> None:
    x = tensor("laplace") + 0.1
    x[:4] = torch.tensor([9.0, -15.5, 0.0, 1e-3])
    scaled = x * 2.0 ** (power // 2) * 2.0 ** (power - power // 2)
    plain, moved = (read(s, method, alpha, format) for s in (site(x), site(scaled)))
    # what lay in the evenly spaced bins, a ten-thousandth of the values, has finer ones now; near the end of float32
    # itself the small values have fewer bits
    np.testing.assert_allclose(moved.scale, plain.scale * 2.0**power, rtol=1e-6)
    np.testing.assert_allclose(moved.sqnr_db, plain.sqnr_db, atol=0.02)
    np.testing.assert_allclose(moved.clip_fraction, plain.clip_fraction, atol=1e-4)
    np.testing.assert_allclose(moved.absmax, float(scaled.abs().max()))
    np.testing.assert_allclose(
        site(scaled).channel_text_mean_max, site(x).channel_text_mean_max * 2.0**power, rtol=1e-6
    )


def test_ordinary_values_are_observed_once() -> None:
    for scale in (1e-3, 1.0, 100.0):
        assert not window.shifts(observed(tensor("gaussian") * scale))
    assert not window.shifts(observed(torch.zeros(400)))
    assert not window.shifts(observed((tensor("gaussian") * 1e9).bfloat16()))


def test_one_large_value_among_ordinary_ones() -> None:
    x = tensor("gaussian").clone()
    x[7] = 1e6
    reading = read(site(x), METHODS["percentile"], 0.999, "int8")
    assert reading.clip[0] == pytest.approx(np.quantile(x.abs().double().numpy(), 0.999), rel=2**-10)
    values = x.double().numpy()
    step = reading.clip[0] / 127
    error = values - np.clip(np.rint(values / step), -127, 127) * step
    assert reading.mse[0] == pytest.approx(np.square(error).mean(), rel=1e-3)


@pytest.mark.parametrize(
    ("x", "method", "alpha"),
    [
        (torch.cat([torch.ones(10), torch.full((390,), 1e-30)]), METHODS["percentile"], 0.5),
        (torch.cat([torch.full((1,), 1e30), torch.linspace(-1e-9, 1e-9, 399)]), METHODS["minmax"], None),
    ],
)
def test_what_no_window_holds_is_refused(x: Tensor, method: Method, alpha: float | None) -> None:
    with pytest.raises(UsageError, match=r"span more than the bins that float32 is counted in.*dtype=bfloat16"):
        read(site(x), method, alpha, "int8")


def test_the_first_pass_alone_never_gives_a_number() -> None:
    for scale in (1e6, 1e-8):
        with pytest.raises(UsageError, match="dtype=bfloat16"):
            read(observed(tensor("gaussian") * scale).sites[KEY], METHODS["mse"], None, "int8")


def test_shifted_layouts_have_names_edges_and_no_others_to_merge_with() -> None:
    for shift in (-100, 0, 29):
        for plain in (bins.FLOAT32, bins.FLOAT32_FOLDS):
            moved = plain.times(shift)
            assert bins.layout(str(moved)) == moved
            assert moved.of_folds == bins.FLOAT32_FOLDS.times(shift)
            np.testing.assert_array_equal(moved.edges[:31744], plain.edges[:31744] * 2.0**-shift)
    one, other = (Histogram.from_dense(bins.FLOAT32.times(s), np.ones(65536, np.int64), 0, 1) for s in (0, 1))
    with pytest.raises(ValueError, match="different layouts"):
        Histogram.stack([one, other])
