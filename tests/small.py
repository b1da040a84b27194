"""A Mamba-2 of two layers with random weights, and a text: calibrated in a blink, and never the shipped model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SEQLEN, SAMPLES, FOLDS = 32, 12, 4


def write(directory: Path, seed: int = 0) -> Path:
    """The checkpoint, in transformers' format, with ByT5's tokenizer; returns its directory."""
    import torch
    from transformers import Mamba2Config, Mamba2ForCausalLM

    torch.manual_seed(seed)
    config = Mamba2Config(
        vocab_size=264, hidden_size=32, expand=2, n_groups=1, num_heads=4, head_dim=16, state_size=8,
        conv_kernel=4, num_hidden_layers=2, chunk_size=16, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    Mamba2ForCausalLM(config).save_pretrained(directory)
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    return directory


def text(path: Path, length: int = 4000) -> Path:
    letters = np.random.default_rng(0).integers(97, 123, length, dtype=np.uint8)
    path.write_bytes(letters.tobytes())
    return path


def overrides(root: Path) -> list[str]:
    """Command line of a cell of the small model; what `files` wrote lies in `root`."""
    return [
        f"model.path={root / 'model'}",
        "data=text",
        f"data.path={root / 'text.txt'}",
        f"calibration.samples={SAMPLES}",
        f"calibration.seqlen={SEQLEN}",
        f"calibration.folds={FOLDS}",
        "calibration.batch_size=2",
        "wandb.mode=disabled",
    ]


def files(root: Path) -> Path:
    write(root / "model")
    text(root / "text.txt")
    return root


def shipped(directory: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the shipped model whose weights, by name and in float32, `change` has changed in place."""
    import shutil

    from safetensors.torch import load_file, save_file

    from sweep import models

    shutil.copytree(Path(models.__file__).parent / "tiny", directory)
    weights = {name: value.float() for name, value in load_file(directory / "model.safetensors").items()}
    change(weights)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory
