"""Statistics of values that are known one by one."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import torch

from sweep.calibration.accumulator import SiteFold
from sweep.calibration.observer import Observer
from sweep.quantization.histogram import Histogram
from sweep.quantization.site_statistics import SiteStatistics
from sweep.quantization.statistics import Statistics

SITE = (3, "x_conv_out")


def observe(x: torch.Tensor) -> SiteFold:
    observer = Observer()
    for text in x.split(1):
        observer(*SITE, text)
    return observer.finish()[SITE]


def statistics(x: torch.Tensor, folds: list[int], weight: float | None = 0.25) -> Statistics:
    """x: [fold, sample, seq, channel]"""
    parts = [observe(fold) for fold in x]
    site = SiteStatistics(
        folds=np.array(folds, np.int32),
        samples=np.full(len(folds), x.shape[1]),
        histogram=Histogram.stack([p.histogram.coarser(p.histogram.layout.of_folds) for p in parts]),
        channel_absmax=np.stack([p.channel_absmax for p in parts]),
        channel_abs_sum=np.stack([p.channel_abs_sum for p in parts]),
        channel_text_mean_max=np.stack([p.channel_text_mean_max for p in parts]),
        weight_absmax=weight,
        pooled=reduce(add, [Histogram.stack([p.histogram]) for p in parts]) if x.dtype is torch.float32 else None,
    )
    return Statistics({SITE: site}, {"family": "mamba2"})
