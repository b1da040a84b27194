"""Device and dtype of a cell that leaves them open."""

from __future__ import annotations

from dataclasses import replace

import torch

from sweep.config.config import Config
from sweep.config.dtype import DEFAULT
from sweep.config.knobs import Model
from sweep.models import source

COMPUTED = ("float32", "bfloat16", "float16")  # what activations are computed in


def dtype(model: Model) -> str:
    """The dtype of most values of a checkpoint, float32 where none computes in that; of random weights, which
    nobody published, bfloat16. Raises UsageError where the checkpoint cannot be had."""
    if model.weights == "random":
        return "bfloat16"
    stored = source.checkpoint(model).weights.dtype()
    return stored if stored in COMPUTED else "float32"


def device() -> str:
    """`cuda` where torch sees a CUDA device, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def settled(config: Config) -> Config:
    """The configuration with device=auto settled, and dtype=default, which on a CUDA device depends on the checkpoint.
    Raises UsageError where that cannot be had."""
    if config.device == "auto":
        config = replace(config, device=device())
    return replace(config, dtype=dtype(config.model)) if config.dtype == DEFAULT else config
