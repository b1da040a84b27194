"""Sites of values that are known one by one, put together without an observer."""

from __future__ import annotations

import numpy as np
import torch

from sweep.quantization.histogram import Histogram
from sweep.quantization.site_statistics import SiteStatistics
from tests.distributions import stack


def plain_site(x: torch.Tensor, folds: list[int] | None = None) -> SiteStatistics:
    """x: [fold, sample, seq, channel]"""
    fine, sizes = stack(*(fold.flatten() for fold in x)), x.abs().double().numpy()
    return SiteStatistics(
        folds=np.array(range(len(x)) if folds is None else folds, np.int32),
        samples=np.full(len(x), x.shape[1]),
        histogram=fine.coarser(fine.layout.of_folds),
        channel_absmax=sizes.max((1, 2)).astype(np.float32),
        channel_abs_sum=sizes.sum((1, 2)),
        channel_text_mean_max=sizes.mean(2).max(1).astype(np.float32),
        weight_absmax=0.25,
        pooled=None if fine.layout.exact else Histogram.stack([fine.total()]),
    )
