"""How far the percentile read off a histogram is from the exact order statistic.

The data are what breaks calibrators: tails, a gain that drifts, one spike, a first batch much smaller than the
rest. Each passes the observer in 64 batches, as in a calibration.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.race import table
from sweep.calibration.observer import Observer
from sweep.quantization.fold_sums import each

ALPHAS = (0.99, 0.999, 0.9995, 0.9999, 0.99999, 1.0)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BATCHES, SEQ, CHANNELS = 64, 512, 1536


def data(name: str) -> Tensor:
    """[64, 512, 1536] float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCHES, SEQ, CHANNELS, generator=generator)
    spread = torch.randn(CHANNELS, generator=generator).exp()  # channels differ, as they do in networks
    x = x * spread * (1 + 0.1 * x * x)
    if name == "drifting":
        x = x * torch.linspace(0.2, 5, BATCHES)[:, None, None]
    elif name == "spiky":
        x[7, 100, 5] = 6000.0
    elif name == "tiny first batch":
        x[0] *= 1e-4
    return x


def main() -> list[dict[str, Any]]:
    rows = []
    for name in ("heavy-tailed", "drifting", "spiky", "tiny first batch"):
        source = data(name)
        for dtype in DTYPES:
            values = source.to(dtype)
            observer = Observer()
            for batch in values:
                observer(0, "x", batch[None])
                observer.settle()
            histogram = each(observer.finish()[0, "x"].histogram)
            exact = np.sort(values.float().abs().flatten().numpy())
            method = "linear" if dtype is torch.float32 else "higher"
            row: dict[str, Any] = {"data": name, "dtype": str(dtype).removeprefix("torch.")}
            for alpha in ALPHAS:
                truth = _order_statistic(exact, alpha, method)
                row[str(alpha)] = f"{abs(float(histogram.abs_quantile(alpha)[0]) / truth - 1) * 100:.5f}"
            rows.append(row)
    return table(f"Error of the percentile, %, against exact order statistics of {source.numel():,} values", rows)


def _order_statistic(ascending: np.ndarray[Any, Any], alpha: float, method: str) -> float:
    """numpy.quantile(ascending, alpha, method=method), without sorting again."""
    rank = (len(ascending) - 1) * alpha
    below, above = float(ascending[int(np.floor(rank))]), float(ascending[int(np.ceil(rank))])
    return above if method == "higher" else below + (above - below) * (rank - np.floor(rank))


if __name__ == "__main__":
    main()
