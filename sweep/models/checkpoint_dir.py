"""Checkpoints on disk: which layout they have, which files, and what tells one from another.

Layouts:
  transformers  config.json with model_type; *.safetensors or *.bin, sharded or not
  mamba_ssm     config.json with d_model, n_layer, ssm_cfg; pytorch_model.bin or *.safetensors
                (github state-spaces/mamba, mamba_ssm/models/mixer_seq_simple.py)
  megatron      release/mp_rank_00/model_optim_rng.pt, as nvidia/mamba2-8b-3t-4k
                (github NVIDIA/Megatron-LM, megatron/core/models/mamba)
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sweep.core.errors import UsageError, first_line
from sweep.core.files import sha256
from sweep.models.tensors import Weights, megatron

FILES = ("*.json", "*.safetensors", "*.bin", "*.model", "*/mp_rank_00/*.pt", "latest_checkpointed_iteration.txt")
MEGATRON = "model_optim_rng.pt"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """settings: config.json as it stands, of a Megatron checkpoint what its arguments say, in mamba_ssm's words.
    files: those that hold weights, all present."""

    path: Path
    layout: str
    settings: dict[str, Any]
    files: tuple[Path, ...]

    @cached_property
    def weights(self) -> Weights:
        return Weights(self.files, "model" if self.layout == "megatron" else None)

    @property
    def identity(self) -> str:
        """SHA-256 over config.json and the weights: what of a checkpoint changes its activations.

        Reads no file twice: hashes are remembered by path, size and time of change."""
        digest = hashlib.sha256()
        config = self.path / "config.json"
        for file in (*([config] if config.is_file() else []), *self.files):
            digest.update(f"{file.relative_to(self.path)}\0{_sha256(file)}\0".encode())
        return f"sha256:{digest.hexdigest()}"


def open_checkpoint(path: Path, weights: bool = True) -> Checkpoint:
    """The checkpoint in a directory; without `weights` only its configuration needs to be there.

    Reads no weights. Raises UsageError that says what is missing."""
    if not path.is_dir():
        raise UsageError(f"model.path={path} is no directory; give the directory that holds config.json")
    if (config := path / "config.json").is_file():
        try:
            settings = json.loads(config.read_bytes())
        except ValueError as error:
            raise UsageError(f"{config} cannot be loaded: {first_line(error)}") from error
        layout = "transformers" if "model_type" in settings else "mamba_ssm" if "d_model" in settings else None
        if layout is None:
            raise UsageError(f"{config} has neither model_type (transformers) nor d_model (mamba_ssm): unknown layout")
        return Checkpoint(path, layout, settings, _weight_files(path) if weights else ())
    if ranks := sorted(path.glob(f"**/mp_rank_*/{MEGATRON}")):
        if len(ranks) > 1:
            raise UsageError(f"model.path={path}: {len(ranks)} parts of a tensor-parallel checkpoint; merge them first")
        return Checkpoint(path, "megatron", _megatron_settings(ranks[0]), (ranks[0],))
    raise UsageError(
        f"model.path={path} holds no checkpoint; allowed: a directory with config.json and *.safetensors or *.bin "
        f"(transformers, mamba_ssm), or with release/mp_rank_00/{MEGATRON} (Megatron)"
    )


def whole(path: Path) -> bool:
    """Whether a directory holds all files of a checkpoint."""
    try:
        open_checkpoint(path)
    except UsageError:
        return False
    return True


def _weight_files(path: Path) -> tuple[Path, ...]:
    """model.safetensors before pytorch_model.bin, each before shards, as transformers prefers them."""
    for usual in ("model.safetensors", "pytorch_model.bin"):
        if (path / usual).is_file():
            return (path / usual,)
        suffix = usual.rpartition(".")[2]
        for index in sorted(path.glob(f"*.{suffix}.index.json")):
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
            if missing := [name for name in names if not (path / name).is_file()]:
                raise UsageError(
                    f"model.path={path}: {len(missing)} of {len(names)} shards are missing: {', '.join(missing[:3])}; "
                    "finish the download"
                )
            return tuple(path / name for name in names)
        if files := tuple(sorted(f for f in path.glob(f"*.{suffix}") if f.name != "training_args.bin")):
            return files
    raise UsageError(
        f"model.path={path} holds no weights; allowed: model.safetensors, pytorch_model.bin, or shards with their index"
    )


def _megatron_settings(file: Path) -> dict[str, Any]:
    """The geometry in mamba_ssm's words, from the arguments the checkpoint was trained with.

    What they do not say is Megatron's default for its Mamba-2 (d_state 128, headdim 64, 8 groups)."""
    try:
        saved = megatron(file)
        arguments = vars(saved["args"])
        rows = len(saved["model"]["embedding.word_embeddings.weight"])
    except (KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
        raise UsageError(f"{file} is no Megatron checkpoint: {first_line(error)}") from error
    return {
        "d_model": arguments["hidden_size"],
        "n_layer": arguments["num_layers"],
        "vocab_size": rows,
        "pad_vocab_size_multiple": 1,
        "tie_embeddings": not arguments.get("untie_embeddings_and_output_weights", True),
        "ssm_cfg": {
            "layer": "Mamba2",
            "d_state": arguments.get("mamba_state_dim") or 128,
            "headdim": arguments.get("mamba_head_dim") or 64,
            "ngroups": arguments.get("mamba_num_groups") or 8,
        },
    }


def _sha256(file: Path) -> str:
    """Of the content; remembered under ~/.cache, except for files of the Hub's cache, which are named by it."""
    real = file.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", real.name):
        return real.name
    stat = real.stat()
    memo = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mamba-scale-sweep" / "sha256"
    memo /= hashlib.sha256(f"{real}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ino}".encode()).hexdigest()
    if memo.is_file() and len(known := memo.read_text()) == 64:
        return known
    digest = sha256(real)
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        draft = memo.with_name(f"{memo.name}.{os.getpid()}")
        draft.write_text(digest)
        draft.replace(memo)
    except OSError:
        pass  # a home that cannot be written costs time, not correctness
    return digest
