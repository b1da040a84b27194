"""What predicted loss costs to collect: a forward and backward pass with squared gradients against a forward pass.

The limit is forward and backward alone, with the same labels and nothing done with a gradient that comes to a site.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from bench import geometry
from bench.memory import ROOT
from bench.race import median, race, ratio, table
from sweep.calibration.differentiate import differentiate
from sweep.calibration.gradients import Gradients
from sweep.models.kernels.patch import kernels
from sweep.models.load import Model
from sweep.models.mixer import mixers

OPEN = ExitStack()
VOCABULARY, LENGTH = 50288, 512  # of state-spaces' networks; the head's products are part of a backward pass
CASES = (
    ("mamba2", "130m", "float32", 24),
    ("mamba2", "130m", "bfloat16", 24),
    ("mamba1", "130m", "float32", 24),
)
# network, whether it is streamed, samples calibrated, layers (memory is one layer's), samples differentiated
STREAMED: tuple[tuple[str, bool, int, int, int], ...] = (("2.7b", True, 64, 2, 64), ("8b", True, 8, 2, 8))


def network(family: str, size: str, dtype: str, layers: int) -> Model:
    """With our kernels, as a calibration has them, and a head of the published size."""
    lm = getattr(geometry, family)(size, dtype, layers)
    width = lm.lm_head.in_features
    lm.lm_head = torch.nn.Linear(width, VOCABULARY, bias=False, dtype=lm.dtype).requires_grad_(False)
    model = Model(
        size, lm, lambda ids: lm.base_model(ids, use_cache=False)[0], tuple(mixers(lm)), torch.device("cpu"), ""
    )
    OPEN.enter_context(kernels(model.mixers, model.device))  # once, as a calibration does, and never left
    return model


def forward(**shape: Any) -> Callable[[], None]:
    """The backbone of one text."""
    model, ids = network(**shape), geometry.tokens(1, LENGTH)

    def step() -> None:
        with torch.inference_mode():
            model.backbone(ids)

    return step


def backward(histograms: bool, **shape: Any) -> Callable[[], None]:
    """Forward, labels and backward of one text."""
    model, ids = network(**shape), np.asarray(geometry.tokens(1, LENGTH)[0])
    gradients = Gradients()

    def step() -> None:
        differentiate(model, ids, 0, 0, gradients if histograms else lambda *_: None, gradients.settle)

    return step


def main() -> list[dict[str, Any]]:
    rows = []
    for family, size, dtype, layers in CASES:
        shape = {"family": family, "size": size, "dtype": dtype, "layers": layers}
        laps = race(
            {
                "forward": ("bench.loss:forward", shape),
                "limit": ("bench.loss:backward", {**shape, "histograms": False}),
                "whole": ("bench.loss:backward", {**shape, "histograms": True}),
            },
            repeats=5,
        )
        rows.append(
            {
                "model": f"{family} {size}, {layers} layers",
                "dtype": dtype,
                "forward, s": median(laps["forward"]),
                "forward and backward, s": median(laps["limit"]),
                "with weighted histograms, s": median(laps["whole"]),
                "limit: forward and backward alone / forward": ratio(laps["limit"], laps["forward"]),
                "with weighted histograms / forward": ratio(laps["whole"], laps["forward"]),
                "asked for": "<= 6",
                "peak, MB": median(laps["whole"], "peak_mb"),
            }
        )
    table(f"Squared gradients of one text of {LENGTH} tokens, random weights", rows)
    peaks = []
    for case in STREAMED:
        done = subprocess.run(
            [sys.executable, "-m", "bench.memory", json.dumps(case)], cwd=ROOT, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        peaks.append(json.loads(done.stdout) | {"asked for": {"2.7b": "<= 6 GB", "8b": "<= 12 GB"}[case[0]]})
    return rows + table(f"Streamed, texts of {LENGTH} tokens, random weights in bfloat16 on the CPU", peaks)


if __name__ == "__main__":
    main()
