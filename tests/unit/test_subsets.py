"""Answers come from all folds in fine bins, their errors from single folds in bins four times as wide."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from distributions import NAMES, histogram, tensor
from test_statistics import SITE, statistics

from sweep import metrics, reading, scales
from sweep.formats import named
from sweep.histogram import Histogram
from sweep.scales import Method
from sweep.statistics import SiteStatistics

FOLDS = 8
INT8 = named("int8")


def observed(name: str, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, SiteStatistics]:
    x = tensor(name, dtype)
    x = x[: len(x) // FOLDS * FOLDS].view(FOLDS, 1, -1, 1)
    return x, statistics(x, list(range(FOLDS))).sites[SITE]


def fine(x: torch.Tensor) -> Histogram:
    """The folds in the bins of all of them together."""
    return histogram(*(fold.flatten() for fold in x))


@pytest.mark.parametrize("name", NAMES)
def test_all_folds_are_read_in_fine_bins(name: str) -> None:
    x, site = observed(name)
    whole = fine(x).total().abs_quantile(0.999)
    for sets, place in ((site.replicates, 0), (site.growing, -1)):
        clips = reading.clips_of(site, sets, Method.PERCENTILE, 0.999, INT8)
        assert clips.high[place] == whole
        assert len(clips.high) == len(sets.members)


def test_errors_are_those_of_fine_folds() -> None:
    """To 12 % (root mean square over distributions), where an error from eight folds is itself good to 27 %."""
    ratios = []
    for name in ("gaussian", "laplace", "student", "cauchy", "lognormal", "uniform", "silu", "bimodal", "negative"):
        x, site = observed(name)
        left_out = fine(x).pick(~np.eye(FOLDS, dtype=bool))
        for alpha in (0.99, 0.999, 0.9995):
            found = reading.of_histograms([(reading.WHOLE, site)], Method.PERCENTILE, alpha, INT8)
            quantizer = INT8.place(float(found.clip_low[0]), float(found.clip[0]))
            clips = scales.clip(left_out, Method.PERCENTILE, alpha, INT8)
            sqnr = metrics.measure(left_out, quantizer).sqnr_db
            ratios.append(
                [
                    found.scale_se[0] / scales.jackknife_error(clips.scale),
                    scales.jackknife_error(found.sqnr_db[0, 1:]) / scales.jackknife_error(sqnr),
                ]
            )
    assert (np.sqrt(np.square(np.log(ratios)).mean(0)) < np.log(1.12)).all()


def test_a_16_bit_dtype_has_one_set_of_bins() -> None:
    x, site = observed("student", torch.bfloat16)
    assert site.pooled is None
    assert len(site.replicates.stacks) == 1
    assert site.total.abs_quantile(0.999) == np.quantile(x.abs().double().numpy(), 0.999, method="higher")
