"""Quantiles of each text of a batch by itself, which `percentile_ema` needs in the texts' order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def text_quantiles(x: Tensor, alphas: Sequence[float]) -> Tensor:
    """Quantiles of each text of x [batch, seq, channels], float64 [batch, A, 3], with linear interpolation: for each
    alpha the alpha-quantile of |x|, and the (1 - alpha)- and the alpha-quantile of x.

    As `torch.quantile`, which refuses more than 2^24 values and rounds the rank to float32."""
    flat = x.flatten(1).float()
    ends = [_upper(values, alphas) for values in (flat.abs(), -flat, flat)]
    return torch.stack([ends[0], -ends[1], ends[2]], -1)


def _upper(values: Tensor, alphas: Sequence[float]) -> Tensor:
    """alpha-quantiles [batch, A] of each row."""
    last = values.shape[1] - 1
    ranks = [last * alpha for alpha in alphas]
    descending = values.topk(last + 1 - int(min(ranks)), dim=1).values.double()
    quantiles = []
    for rank in ranks:
        below = int(rank)
        lower, upper = descending[:, last - below], descending[:, max(last - below - 1, 0)]
        quantiles.append(lower + (upper - lower) * (rank - below))
    return torch.stack(quantiles, -1)
