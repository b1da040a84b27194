"""Sites with squared gradients, made of known values and known gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from sweep.quantization.bins import BINS, Layout
from sweep.quantization.fisher import FisherHistogram
from sweep.quantization.site_statistics import SiteStatistics
from tests.distributions import tensor
from tests.observed_sites import SITE, statistics
from tests.tallies import bin_codes

Floats = NDArray[np.float64]
FOLDS, TOKENS = 4, [70, 70, 60, 10]


def fisher(x: torch.Tensor, g: Floats, tokens: list[int], layout: Layout) -> FisherHistogram:
    """x: [K, n], of the dtype that is observed; g: [K, n], the gradients of the same values."""
    pairs = zip(x, g, strict=True)
    dense = np.stack([np.bincount(bin_codes(v), weights=np.square(w), minlength=BINS) for v, w in pairs])
    if layout.width > 1:
        wide = np.arange(0, BINS, layout.width)
        dense, codes = np.add.reduceat(dense, wide, 1), wide
    else:
        codes = np.arange(BINS)
    used = dense.any(0)
    return FisherHistogram(layout, codes[used].astype(np.uint16), dense[:, used], np.array(tokens, np.int64))


def differentiated(site: SiteStatistics, x: torch.Tensor, g: Floats, tokens: list[int]) -> SiteStatistics:
    """The site with gradients of its values, in the bins of its folds."""
    folds = len(tokens)
    return replace(site, fisher=fisher(x.reshape(folds, -1), g.reshape(folds, -1), tokens, site.histogram.layout))


def observed(
    name: str, dtype: torch.dtype = torch.bfloat16, seed: int = 0
) -> tuple[torch.Tensor, np.ndarray, SiteStatistics]:
    """Values [K, n], their gradients, and the site that holds them."""
    x = tensor(name, dtype)[: 4 * 3000].view(FOLDS, 1, -1, 1)
    site = replace(statistics(x, list(range(FOLDS))).sites[SITE], weight_absmax=None)
    rng = np.random.default_rng(seed)
    g = rng.standard_normal(x.shape) * np.exp(rng.standard_normal(x.shape)) * 1e-3
    return x.reshape(FOLDS, -1), g.reshape(FOLDS, -1), differentiated(site, x, g, TOKENS)
