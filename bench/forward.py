"""The forward pass of a calibration against transformers' own, and against its matrix products alone, the limit.

The limit is the time of the linear projections of all layers, at the same shapes, in the same library: what no
forward pass that multiplies with torch can beat. The scan's own products are not in it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from bench import geometry
from bench.race import median, race, ratio, table
from sweep.models.kernels.patch import kernels
from sweep.models.mixer import mixers

OPEN = ExitStack()

# family, size, dtype, layers timed (a layer costs what any other costs), and what is asked for
LIMIT, AGAINST = "ours / products", "transformers / ours"
CASES: tuple[tuple[str, str, str, int, str], ...] = (
    ("mamba2", "130m", "float32", 24, f"{LIMIT} <= 1.5"),
    ("mamba2", "370m", "float32", 16, f"{LIMIT} <= 1.5"),
    ("mamba2", "1.3b", "float32", 6, "growth <= 1.1"),
    ("mamba2", "130m", "bfloat16", 24, f"{AGAINST} >= 3"),
    ("mamba1", "130m", "float32", 24, f"{LIMIT} <= 2.5"),
    ("mamba1", "130m", "bfloat16", 24, ""),
)


def backbone(family: str, size: str, dtype: str, layers: int, own: bool, batch: int = 1) -> Callable[[], None]:
    """Without lm_head, no cache: with our kernels, or as transformers does it by default."""
    lm = getattr(geometry, family)(size, dtype, layers)
    found, ids = mixers(lm), geometry.tokens(batch, 512)
    if own:
        OPEN.enter_context(kernels(found, torch.device("cpu")))  # once, as a calibration does, and never left

    def step() -> None:
        with torch.inference_mode():
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
    per_product: dict[str, float] = {}  # seconds of a layer per multiplication in its products
    for family, size, dtype, layers, asked in CASES:
        shape = {"family": family, "size": size, "dtype": dtype, "layers": layers}
        laps = race(
            {
                "limit": ("bench.forward:products", shape),
                "own": ("bench.forward:backbone", {**shape, "own": True}),
                "transformers": ("bench.forward:backbone", {**shape, "own": False}),
            },
            repeats=5,
            foreign=["transformers"],
        )
        if (family, dtype) == ("mamba2", "float32"):
            per_product[size] = median(laps["own"]) / layers / multiplications(size)
        rows.append(
            {
                "model": f"{family} {size}, {layers} layers",
                "dtype": dtype,
                "products alone, s": median(laps["limit"]),
                "ours, s": median(laps["own"]),
                "transformers, s": median(laps["transformers"]),
                LIMIT: ratio(laps["own"], laps["limit"]),
                AGAINST: ratio(laps["transformers"], laps["own"]),
                "asked for": asked,
                "ours / products, processor time": ratio(laps["own"], laps["limit"], "cpu"),
            }
        )
    table("Backbone of 1 x 512 tokens, random weights", rows)
    growth = per_product["1.3b"] / per_product["130m"]
    print(
        f"Growth of the cost per token from 130m to 1.3b / growth of the products' FLOPs: **{growth:.2f}** (<= 1.1)\n"
    )
    return rows


def multiplications(size: str) -> int:
    """Of the linear projections of one Mamba-2 layer, per token: in_proj to [z, x, B, C, dt], and out_proj."""
    hidden = geometry.SIZES[size][0]
    inner = 2 * hidden
    return hidden * (2 * inner + 2 * 128 + inner // 64) + inner * hidden


if __name__ == "__main__":
    main()
