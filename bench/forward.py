"""The forward pass of a calibration against transformers' own, and against its matrix products alone, the limit.

The limit is the time of the linear projections of all layers, at the same shapes, in the same library: what no
forward pass that multiplies with torch can beat. The scan's own products are not in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bench import geometry
from bench.race import median, race, ratio, table
from sweep.models.kernels import kernels
from sweep.sites import mixers

CASES = (  # family, size, dtype, layers timed: a layer costs what any other costs
    ("mamba2", "130m", "float32", 24),
    ("mamba2", "370m", "float32", 16),
    ("mamba2", "1.3b", "float32", 6),
    ("mamba2", "130m", "bfloat16", 24),
    ("mamba1", "130m", "float32", 24),
    ("mamba1", "130m", "bfloat16", 24),
)


def backbone(family: str, size: str, dtype: str, layers: int, own: bool, batch: int = 1) -> Callable[[], None]:
    """Without lm_head, no cache: with our kernels, or as transformers does it by default."""
    lm = getattr(geometry, family)(size, dtype, layers)
    found, ids = mixers(lm), geometry.tokens(batch, 512)
    device = torch.device("cpu" if own else "meta")  # kernels() leaves other devices' models alone

    def step() -> None:
        with torch.inference_mode(), kernels(found, device):
            lm.base_model(ids, use_cache=False)

    return step


def products(family: str, size: str, dtype: str, layers: int, batch: int = 1) -> Callable[[], None]:
    """Every nn.Linear of the backbone on inputs of the right shape."""
    lm = getattr(geometry, family)(size, dtype, layers)
    linears = [m for m in lm.base_model.modules() if isinstance(m, torch.nn.Linear)]
    inputs = {m.in_features: torch.randn(batch, 512, m.in_features).to(m.weight.dtype) for m in linears}

    def step() -> None:
        with torch.inference_mode():
            for linear in linears:
                linear(inputs[linear.in_features])

    return step


def main() -> list[dict[str, Any]]:
    rows = []
    for family, size, dtype, layers in CASES:
        shape = {"family": family, "size": size, "dtype": dtype, "layers": layers}
        laps = race(
            {
                "limit": ("bench.forward:products", shape),
                "own": ("bench.forward:backbone", {**shape, "own": True}),
                "transformers": ("bench.forward:backbone", {**shape, "own": False}),
            },
            repeats=5,
        )
        rows.append(
            {
                "model": f"{family} {size}, {layers} layers",
                "dtype": dtype,
                "products alone, s": median(laps["limit"]),
                "ours, s": median(laps["own"]),
                "transformers, s": median(laps["transformers"]),
                "ours / products": ratio(laps["own"], laps["limit"]),
                "transformers / ours": ratio(laps["transformers"], laps["own"]),
                "ours / products, processor time": ratio(laps["own"], laps["limit"], "cpu"),
            }
        )
    return table("Backbone of 1 x 512 tokens, random weights", rows)


if __name__ == "__main__":
    main()
