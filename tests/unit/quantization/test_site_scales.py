"""Every number of a reading against the values of the folds, one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sweep.core.errors import UsageError
from sweep.quantization import replicates, site_scales, window
from sweep.quantization.formats import Format, named
from sweep.quantization.histogram import Histogram
from sweep.quantization.methods.method import Method, Observed
from sweep.quantization.methods.registry import METHODS, Clips, jackknife_error
from sweep.quantization.site_scales import WHOLE, of_histograms, of_maxima
from sweep.quantization.site_statistics import SiteStatistics
from sweep.quantization.types import Floats
from tests.gradients import differentiated
from tests.plain_sites import plain_site

K, N, CHANNELS = 4, 30, 3
TOKENS = [7, 9, 10, 4]
PERCENTILE, MINMAX = METHODS["percentile"], METHODS["minmax"]


def observed(seed: int, dtype: torch.dtype = torch.bfloat16) -> tuple[Floats, Floats, SiteStatistics]:
    """Values [K, N x CHANNELS], gradients of the same, and their site."""
    random = np.random.default_rng(seed)
    x = torch.tensor(random.standard_normal((K, 1, N, CHANNELS)) * 3 + 0.5).to(dtype)
    g = random.standard_normal(x.shape)
    site = differentiated(plain_site(x), x, g, TOKENS)
    return x.double().numpy().reshape(K, -1), g.reshape(K, -1), site


def sqnr(x: Floats, error: Floats) -> float:
    return float(10 * np.log10(np.square(x).sum() / np.square(error).sum()))


@pytest.mark.parametrize("factor", [1.0, 1.5])
@pytest.mark.parametrize("format", ["int4", "int8_asym"])
@pytest.mark.parametrize(("method", "alpha"), [(PERCENTILE, 0.9), (MINMAX, None)], ids=str)
def test_a_reading_is_what_the_values_say(method: Method, alpha: float | None, format: str, factor: float) -> None:
    to, places = named(format), [WHOLE, (0, 1, 2)]
    known = [observed(seed) for seed in (0, 1)]
    read = of_histograms([(p, site) for p, (*_, site) in zip(places, known, strict=True)], method, alpha, to, factor)
    assert [tuple(place) for place in read.place.tolist()] == places
    for i, (x, g, site) in enumerate(known):

        def ends(values: Floats) -> tuple[float, float]:
            def quantile(v: Floats, q: float) -> float:
                return float(np.quantile(v, q, method="higher"))

            if to.symmetric:
                high = quantile(np.abs(values), alpha or 1.0)
                return -high, high
            return quantile(values, 1 - (alpha or 1.0)), quantile(values, alpha or 1.0)

        low, high = ends(x)
        quantizer = to.place(low, high)
        error = x - quantizer.quantize(x)
        assert (read.n[i], read.min[i], read.max[i], read.absmax[i]) == (x.size, x.min(), x.max(), np.abs(x).max())
        assert (read.clip[i], read.clip_low[i], read.zero_point[i]) == (high, low, quantizer.zero_point)
        assert read.scale[i, 0] == quantizer.scale
        assert read.clip_fraction[i] == ((x < low) | (x > high)).mean()
        assert read.mse[i] == pytest.approx(np.square(error).mean(), rel=1e-9)
        assert read.sqnr_db[i, 0] == pytest.approx(sqnr(x, error), rel=1e-9)
        p = np.unique(to.codes[quantizer.encode(x)], return_counts=True)[1] / x.size
        assert read.code_entropy_bits[i] == pytest.approx(-(p * np.log2(p)).sum(), rel=1e-9)
        assert read.loss[i, 0] == pytest.approx(np.sum(g**2 * error**2) / 2 / sum(TOKENS), rel=1e-9)

        alone = np.array([ends(fold) for fold in x])
        rate = method.rate(site, np.ones(K, bool), alpha)
        lows, highs = (
            replicates.move(np.array([e]), alone[None, :, c], rate, factor)[0] for c, e in enumerate((low, high))
        )
        for k in range(K):
            own = to.place(lows[k], highs[k])
            rest = [j for j in range(K) if j != k]
            error = x[rest] - own.quantize(x[rest])
            assert read.scale[i, 1 + k] == pytest.approx(own.scale, rel=1e-12)
            assert read.sqnr_db[i, 1 + k] == pytest.approx(sqnr(x[rest], error), rel=1e-9)
            tokens = sum(TOKENS) - TOKENS[k]
            assert read.loss[i, 1 + k] == pytest.approx(np.sum(g[rest] ** 2 * error**2) / 2 / tokens, rel=1e-9)
        assert read.sections[i].low.tolist() == [low, *alone[:, 0]]
        assert read.sections[i].high.tolist() == [high, *alone[:, 1]]
        assert read.sections[i].format is to
    assert read.n.dtype == np.int64
    if factor == 1.0:
        plain = of_histograms([(p, site) for p, (*_, site) in zip(places, known, strict=True)], method, alpha, to)
        np.testing.assert_array_equal(plain.scale, read.scale)
    np.testing.assert_array_equal(read.scale_se, jackknife_error(read.scale[:, 1:]))
    np.testing.assert_array_equal(read.loss_se, jackknife_error(read.loss[:, 1:]))
    assert (read.scale_se > 0).all()


def test_errors_that_are_unknown_leave_the_answer() -> None:
    _, _, site = observed(0)
    known, unknown = (of_histograms([(WHOLE, site)], MINMAX, None, named("int4"), f) for f in (1.0, np.inf))
    for name in ("scale", "sqnr_db", "loss"):
        assert getattr(unknown, name)[0, 0] == getattr(known, name)[0, 0]
        assert np.isnan(getattr(unknown, name)[0, 1:]).all()
        assert getattr(unknown, name).shape == (1, 1 + K)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_site_of_nothing_has_no_numbers() -> None:
    _, _, site = observed(0)
    none, whole = np.full(K, np.inf), site.histogram
    empty = Histogram(whole.layout, whole.bins[:0], whole.counts[:, :0], none, -none)
    read = of_histograms([(WHOLE, replace(site, histogram=empty, fisher=None))], MINMAX, None, named("int4"))
    assert read.n.tolist() == [0]
    for name in ("min", "max", "absmax", "clip", "mse"):
        assert np.isnan(getattr(read, name)).tolist() == [True]


def test_one_fold_with_values_is_enough_for_an_answer() -> None:
    x, _, site = observed(0)
    first = np.arange(K) == 0
    counts = np.where(first[:, None], site.histogram.counts, 0)
    low, high = (np.where(first, e, f) for e, f in ((site.histogram.min, np.inf), (site.histogram.max, -np.inf)))
    only = replace(site, histogram=replace(site.histogram, counts=counts, min=low, max=high))
    read = of_histograms([(WHOLE, only)], MINMAX, None, named("int4"))
    assert (read.n[0], read.min[0], read.max[0]) == (x[0].size, x[0].min(), x[0].max())
    assert read.mse[0] > 0
    assert np.isnan(read.scale[0, 1:]).all()


def test_what_is_checked_is_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Histogram, float, float]] = []
    monkeypatch.setattr(window, "check", lambda *given: asked.append(given))
    _, _, site = observed(0, torch.float32)
    read = of_histograms([(WHOLE, site)], PERCENTILE, 0.9, named("int8_asym"))
    ((total, clip, mse),) = asked
    assert total.counts.tolist() == site.total.counts.tolist()
    assert (clip, mse) == (max(read.clip[0], -read.clip_low[0]), read.mse[0])


def test_what_float32_cannot_tell_is_refused() -> None:
    """A clip of less than a bin."""
    x = torch.full((K, 1, N, CHANNELS), 0.3)
    x[0, 0, 0, 0] = 1.0
    site = plain_site(x)
    assert of_histograms([(WHOLE, site)], Method("one", "", one), None, named("int4")).clip.tolist() == [1]
    with pytest.raises(UsageError, match="with a clip at 1e-08 span more"):
        of_histograms([(WHOLE, site)], Method("small", "", small), None, named("int4"))
    with pytest.raises(UsageError, match="with a clip at 2e-08 span more"):  # the larger of both ends
        of_histograms([(WHOLE, site)], Method("small", "", small), None, named("int8_asym"))


def one(observed: Observed, alpha: float | None, format: Format) -> tuple[Floats, Floats]:
    ones = np.ones(len(observed.histogram.n))
    return -ones, ones


def small(observed: Observed, alpha: float | None, format: Format) -> tuple[Floats, Floats]:
    ones = np.ones(len(observed.histogram.n))
    return -2e-8 * ones, 1e-8 * ones


def test_a_method_may_tell_the_clips_of_folds_itself() -> None:
    _, _, site = observed(0)

    def own(site: SiteStatistics, alpha: float | None, format: Format) -> tuple[Floats, Floats]:
        assert (alpha, format) == (0.5, named("int4"))
        high = np.arange(1.0, 2 + len(site.folds))
        return -high, high

    clips = site_scales.sections(site, Method("own", "", one, sections=own), 0.5, named("int4"))
    assert (clips.low.tolist(), clips.high.tolist()) == ([-1, -2, -3, -4, -5], [1, 2, 3, 4, 5])
    assert clips.format is named("int4")


def test_replicates_are_of_the_folds_that_are_named() -> None:
    """The rate knows them too: of two folds of a quantile with a tenth of 90 values beyond it each."""
    _, _, site = observed(0)
    high = np.array([10.0, 8.0, 9.0, 11.0, 12.0])
    members = np.array([True, False, True, False])
    rate = PERCENTILE.rate(site, members, 0.9)
    assert rate != PERCENTILE.rate(site, np.ones(K, bool), 0.9)
    moved = site_scales.replicated(site, Clips(named("int4"), -high / 2, high), members, PERCENTILE, 0.9, 1.25)
    expected = replicates.move(np.array([10.0]), np.array([[8.0, 11.0]]), rate, 1.25)[0]
    np.testing.assert_allclose(moved.high, expected)
    np.testing.assert_allclose(moved.low, -expected / 2)
    plain = site_scales.replicated(site, Clips(named("int4"), -high, high), members, PERCENTILE, 0.9)
    np.testing.assert_allclose(plain.high, replicates.move(np.array([10.0]), np.array([[8.0, 11.0]]), rate)[0])


def test_clips_of_sets_of_folds() -> None:
    x, _, site = observed(0)
    clips = site_scales.clips_of(site, site.growing, PERCENTILE, 0.9, named("int4"))
    expected = [np.quantile(np.abs(x[: k + 1]), 0.9, method="higher") for k in range(K)]
    assert clips.high.tolist() == expected
    assert clips.format is named("int4")
    seen: list[Observed] = []

    def look(observed: Observed, alpha: float | None, format: Format) -> tuple[Floats, Floats]:
        seen.append(observed)
        return one(observed, alpha, format)

    site_scales.clips_of(site, site.growing, Method("look", "", look), None, named("int4"))
    site_scales.sections(site, Method("look", "", look), None, named("int4"))
    assert seen[0].members is site.growing.members
    assert seen[1].members is site.sections.members
    assert seen[0].site is seen[1].site is site


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_channel_maxima_tell_the_largest_magnitude_of_sets_of_channels(factor: float) -> None:
    x, _, site = observed(0)
    sets = [((0, 0, 0), np.array([0, 2])), ((0, 0, 1), np.array([1]))]
    read = of_maxima(site, sets, named("int4"), factor)
    sizes = np.abs(x.reshape(K, N, CHANNELS)).max(1)  # [K, CHANNELS]
    assert read.place.tolist() == [[0, 0, 0], [0, 0, 1]]
    for i, (_, channels) in enumerate(sets):
        folds = sizes[:, channels].max(1)
        moved = replicates.move(folds.max(keepdims=True), folds[None], 1.0, factor)[0]
        np.testing.assert_allclose(read.scale[i], np.array([folds.max(), *moved]) / 7, rtol=1e-12)
        assert read.n[i] == K * N * len(channels)
        assert read.absmax[i] == read.clip[i] == -read.clip_low[i] == folds.max()
    assert read.n.dtype == np.int64
    assert read.clip_fraction.tolist() == [0, 0]
    for name in ("min", "max", "zero_point", "mse", "code_entropy_bits"):
        assert np.isnan(getattr(read, name)).tolist() == [True, True]
    for name in ("sqnr_db", "loss"):
        assert np.isnan(getattr(read, name)).tolist() == [[True] * (1 + K)] * 2
    assert read.sections == ()
    np.testing.assert_array_equal(
        of_maxima(site, sets, named("int4")).scale, of_maxima(site, sets, named("int4"), 1.0).scale
    )


def test_a_zero_point_needs_both_extremes() -> None:
    with pytest.raises(ValueError, match=r"^int8_asym needs the extremes of both signs, channel maxima have none$"):
        of_maxima(observed(0)[2], [(WHOLE, np.array([0]))], named("int8_asym"))
