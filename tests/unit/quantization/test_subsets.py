"""float32: answers come from all folds in fine bins, their errors from single folds in bins four times as wide."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from sweep.config import config, knobs
from sweep.quantization import metrics, site_scales
from sweep.quantization.fold_sums import FoldSums, each
from sweep.quantization.formats import named
from sweep.quantization.histogram import Histogram
from sweep.quantization.methods import registry as scales
from sweep.quantization.methods.method import Method
from sweep.quantization.methods.registry import METHODS, Clips
from sweep.quantization.site_statistics import SiteStatistics
from sweep.quantization.statistics import Statistics
from sweep.runs import tables
from tests.distributions import NAMES, stack, tensor
from tests.observed_sites import SITE, statistics

FOLDS = 8
LEFT_OUT = ~np.eye(FOLDS, dtype=bool)
INT8 = named("int8")


def observed(name: str, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, SiteStatistics]:
    x = tensor(name, dtype)
    x = x[len(x) % FOLDS :].view(FOLDS, 1, -1, 1)
    return x, statistics(x, list(range(FOLDS))).sites[SITE]


def fine(x: torch.Tensor) -> Histogram:
    """The folds in the bins of all of them together."""
    return stack(*(fold.flatten() for fold in x))


@pytest.mark.parametrize("name", NAMES)
def test_all_folds_are_read_in_fine_bins(name: str) -> None:
    x, site = observed(name)
    whole = each(fine(x).total()).abs_quantile(0.999)
    for sets, place in ((site.replicates, 0), (site.growing, -1)):
        clips = site_scales.clips_of(site, sets, METHODS["percentile"], 0.999, INT8)
        assert clips.high[place] == whole
        assert len(clips.high) == len(sets.members)


SMOOTH = ("gaussian", "laplace", "student", "cauchy", "lognormal", "uniform", "silu", "bimodal", "negative")


@pytest.mark.parametrize(
    ("method", "alphas", "format", "size", "bound"),
    [
        (METHODS["percentile"], (0.99, 0.999, 0.9995), "int8", 40_000, 0.1),
        (METHODS["percentile"], (0.99, 0.999, 0.9995), "int8_asym", 40_000, 0.1),
        (METHODS["minmax"], (None,), "int8", 40_000, 1e-12),
        (METHODS["mse"], (None,), "int4", 40_000, 0.1),
        (METHODS["entropy"], (None,), "int8", 1_600_000, 0.15),  # with fewer values to fill 2048 bins it is all noise
    ],
    ids=str,
)
def test_errors_are_those_of_fine_folds(
    method: Method, alphas: tuple[float | None, ...], format: str, size: int, bound: float, monkeypatch: Any
) -> None:
    """As root mean square over distributions; an error from eight folds is itself good to 27 %."""
    monkeypatch.setattr("tests.distributions.SIZE", size)
    to, scale_errors, sqnr_errors = named(format), [], []
    for name in SMOOTH:
        x, site = observed(name)
        folds = fine(x)
        left_out = FoldSums(folds, LEFT_OUT)
        for alpha in alphas:
            read = site_scales.of_histograms([(site_scales.WHOLE, site)], method, alpha, to)
            alone = scales.clip(each(folds), method, alpha, to)
            low, high = (np.append(w, e) for w, e in ((read.clip_low, alone.low), (read.clip, alone.high)))
            moved = site_scales.replicated(site, Clips(to, low, high), np.ones(FOLDS, bool), method, alpha)
            if (expected := scales.jackknife_error(moved.scale)) > 0:
                scale_errors.append(read.scale_se[0] / expected)
            own = [to.place(*ends) for ends in zip(moved.low.tolist(), moved.high.tolist(), strict=True)]
            sqnr = np.array([metrics.measure(left_out, q).sqnr_db[k] for k, q in enumerate(own)])
            sqnr_errors.append(scales.jackknife_error(read.sqnr_db[0, 1:]) / scales.jackknife_error(sqnr))
    assert np.sqrt(np.square(np.log(scale_errors)).mean()) < bound
    assert np.sqrt(np.square(np.log(sqnr_errors)).mean()) < max(bound, 0.1)  # each at a scale of its own


def test_values_that_repeat_are_exact() -> None:
    x, site = observed("few")
    left_out = FoldSums(fine(x), LEFT_OUT)
    clip = site_scales.clips_of(site, site.left_out, METHODS["percentile"], 0.9, INT8).high
    assert np.array_equal(clip, left_out.abs_quantile(0.9))


@pytest.mark.parametrize("name", NAMES)
def test_folds_keep_their_values_in_every_wide_bin(name: str) -> None:
    _, site = observed(name)
    assert site.pooled
    finer = site.histogram.finer(site.pooled)
    again = finer.coarser(site.histogram.layout)
    assert np.array_equal(again.bins, site.histogram.bins)
    assert np.array_equal(again.counts, site.histogram.counts)
    assert (finer.counts >= 0).all()
    assert (finer.counts <= site.pooled.counts).all()


def test_many_values_stay_in_their_wide_bins_too() -> None:
    _, site = observed("lognormal")
    assert site.pooled
    many = 250_000  # times 40,000 values
    folds = replace(site.histogram, counts=site.histogram.counts * many)
    finer = folds.finer(replace(site.pooled, counts=site.pooled.counts * many))
    assert np.array_equal(finer.coarser(folds.layout).counts, folds.counts)


def test_with_a_zero_point_the_whole_range_is_that_of_minmax() -> None:
    _, site = observed("student")
    sets, asymmetric = site.replicates, named("int8_asym")
    whole, minmax = (
        site_scales.clips_of(site, sets, method, alpha, asymmetric)
        for method, alpha in ((METHODS["percentile"], 1.0), (METHODS["minmax"], None))
    )
    assert np.array_equal(whole.low, minmax.low)
    assert np.array_equal(whole.high, minmax.high)


def test_a_16_bit_dtype_has_one_set_of_bins() -> None:
    x, site = observed("student", torch.bfloat16)
    assert site.pooled is None
    assert site.replicates.observed.layout is site.histogram.layout
    assert each(site.total).abs_quantile(0.999) == np.quantile(x.abs().double().numpy(), 0.999, method="higher")


def test_what_is_not_to_be_kept_or_is_too_large_for_it_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    _, site = observed("student")
    before = replace(site, weight_absmax=None)
    both = Statistics({(0, "x_conv_pre"): before, (0, "x_conv_out"): site}, {"n_layer": 1})
    cell = config.Config(knobs.Model("tiny", repo="a/b"), knobs.Data("stdlib"), knobs.Calibration())
    once = tables.build(both, cell)
    assert "replicates" not in vars(site)
    monkeypatch.setattr("sweep.runs.tables.KEPT", 0)
    large = tables.build(both, cell, keep=True)
    assert "replicates" not in vars(site)
    monkeypatch.undo()
    kept = tables.build(both, cell, keep=True)
    assert "replicates" in vars(site)
    for field in fields(once):
        assert getattr(once, field.name) == getattr(large, field.name) == getattr(kept, field.name)
