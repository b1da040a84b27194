"""The number format that a network's weights were published in."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from sweep.config.config import Config
from sweep.config.dtype import DEFAULT
from sweep.config.knobs import Model
from sweep.models import load
from sweep.models.tensors import Weights

COMPUTED = ("float32", "bfloat16", "float16")  # what activations are computed in


def dtype(model: Model) -> str:
    """What most values of a checkpoint are stored as, float32 where none computes in that; of random weights, which
    nobody published, bfloat16. Raises UsageError where the checkpoint cannot be had."""
    if model.weights == "random":
        return "bfloat16"
    checkpoint = load.checkpoint(model)
    stored = _stored(checkpoint.files, "model" if checkpoint.layout == "megatron" else None)
    return stored if stored in COMPUTED else "float32"


@cache
def _stored(files: tuple[Path, ...], key: str | None) -> str:
    return Weights(files, key).dtype()


def settled(config: Config) -> Config:
    """The configuration with dtype=default settled, which on a CUDA device depends on the checkpoint."""
    return replace(config, dtype=dtype(config.model)) if config.dtype == DEFAULT else config
