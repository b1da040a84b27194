"""Data that calibrators meet, and data made to break them."""

from __future__ import annotations

import numpy as np
import torch

from sweep.calibration.accumulator import LAYOUTS
from sweep.quantization.bins import BINS
from sweep.quantization.fold_sums import FoldSums, each
from sweep.quantization.histogram import Histogram
from tests.tallies import bin_codes

SIZE = 40_000


def _draw(name: str) -> np.ndarray:
    rng = np.random.default_rng(sum(map(ord, name)))
    normal = rng.standard_normal(SIZE)
    match name:
        case "gaussian":
            return normal
        case "laplace":
            return rng.laplace(size=SIZE)
        case "student":
            return rng.standard_t(3, SIZE)
        case "cauchy":
            return np.clip(rng.standard_cauchy(SIZE), -6e4, 6e4)
        case "lognormal":
            return rng.lognormal(0, 1.5, SIZE)
        case "uniform":
            return rng.uniform(-1, 1, SIZE)
        case "silu":
            return 4 * normal / (1 + np.exp(-4 * normal))
        case "bimodal":
            return np.where(rng.random(SIZE) < 0.5, normal * 0.1 - 3, normal * 0.5 + 8)
        case "spike":
            return np.concatenate([normal, [3000.0]])
        case "zeros":
            return np.where(rng.random(SIZE) < 0.97, 0.0, normal)
        case "few":
            return rng.choice(rng.standard_normal(8), SIZE)
        case "poisson":
            return rng.poisson(2.5, SIZE).astype(np.float64)
        case "two":
            return rng.choice([1.0, -0.4], SIZE)
        case "equal":
            return np.full(SIZE, 0.7)
        case "negative":
            return -rng.gamma(2.0, size=SIZE) - 1
    raise ValueError(name)


NAMES = [
    "gaussian",
    "laplace",
    "student",
    "cauchy",
    "lognormal",
    "uniform",
    "silu",
    "bimodal",
    "spike",
    "zeros",
    "few",
    "poisson",
    "two",
    "equal",
    "negative",
]


def tensor(name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(_draw(name)).to(dtype)


def histogram(*parts: torch.Tensor) -> FoldSums:
    """A histogram of each tensor, as methods and metrics read it."""
    return each(stack(*parts))


def stack(*parts: torch.Tensor) -> Histogram:
    """A stack of one member per tensor."""
    return Histogram.stack(
        [
            Histogram.from_dense(
                LAYOUTS[x.dtype],
                torch.bincount(bin_codes(x), minlength=BINS).numpy(),
                float(x.min()) if len(x) else np.inf,
                float(x.max()) if len(x) else -np.inf,
            )
            for x in parts
        ]
    )
