"""Checkpoints on disk: which layout they have, which files, and what tells one from another.

Layouts:
  transformers  config.json with model_type; *.safetensors or *.bin, sharded or not, or one *.ckpt, *.pt, *.pth
  mamba_ssm     config.json with d_model, n_layer, ssm_cfg; the same files
                (github state-spaces/mamba, mamba_ssm/models/mixer_seq_simple.py)
  megatron      release/mp_rank_00/model_optim_rng.pt, as nvidia/mamba2-8b-3t-4k, or iter_*/mp_rank_00/… of
                which latest_checkpointed_iteration.txt says the one
                (github NVIDIA/Megatron-LM, megatron/core/models/mamba)
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from sweep.core.errors import UsageError, first_line
from sweep.core.files import sha256
from sweep.models import megatron, quantized, refusals, weight_files
from sweep.models.tensors import Weights
from sweep.models.weight_files import Read

STACKS = ("mamba", "mamba2")  # transformers' networks that are Mamba blocks and nothing else


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
        """The named tensors. Raises UsageError where the files hold something else."""
        stack = self.layout != "transformers" or self.settings["model_type"] in STACKS
        return Weights(self.files, stack, self.layout)

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

    Reads no weights. Raises UsageError that says what is missing, or what is there in its place."""
    if not path.is_dir():
        raise UsageError(f"model.path={path} is no directory; give the directory that holds config.json")
    names = _listing(path)
    if (config := path / "config.json").is_file():
        layout, settings = _configuration(config)
        quantized.refuse_beside(path, names)
        chosen = weight_files.chosen(names, path.joinpath, path) if weights else []
        if missing := [name for name in chosen if not (path / name).is_file()]:
            raise UsageError(
                f"model.path={path}: {len(missing)} of {len(chosen)} shards are missing: {', '.join(missing[:3])}; "
                "finish the download"
            )
        return Checkpoint(path, layout, settings, tuple(path / name for name in chosen))
    if file := megatron.file(names, path.joinpath, path):
        return Checkpoint(path, "megatron", megatron.settings(path / file), (path / file,))
    refusals.refuse_directory(path, names)
    raise UsageError(
        f"model.path={path} holds no checkpoint; allowed: a directory with config.json and *.safetensors or *.bin "
        f"(transformers, mamba_ssm), or with release/mp_rank_00/{megatron.NAME} (Megatron)"
    )


def files_to_fetch(names: Sequence[str], read: Read, where: object, beside: Sequence[str]) -> list[str]:
    """The files of a repository that `open_checkpoint` and its weights need, beyond those that `read` fetches.

    names: all there are. read: fetches one. where: what to call the repository. beside: patterns of other files that
    will be read, a tokenizer's. Raises UsageError for a checkpoint that cannot be used, before its weights come."""
    small = [name for name in names if "/" not in name and any(fnmatchcase(name, pattern) for pattern in beside)]
    if "config.json" in names:
        _configuration(read("config.json"))
        quantized.refuse_beside(where, names)
        return [*small, *weight_files.chosen(names, read, where)]
    if file := megatron.file(names, read, where):
        return [*small, file]
    refusals.refuse_directory(where, names)
    raise UsageError(f"{where} holds no checkpoint: neither config.json nor {megatron.NAME}")


def whole(path: Path) -> bool:
    """True if a directory holds all files of a checkpoint."""
    try:
        open_checkpoint(path)
    except UsageError:
        return False
    return True


def _listing(path: Path) -> list[str]:
    """Names of the files in a directory and of Megatron's below it, relative to it, sorted."""
    here = (file for file in path.iterdir() if file.is_file())
    return sorted(str(file.relative_to(path)) for file in (*here, *path.glob(f"**/mp_rank_*/{megatron.NAME}")))


def _configuration(file: Path) -> tuple[str, dict[str, Any]]:
    """Layout and settings of a config.json. Raises UsageError for one that is of no network that can be computed."""
    refusals.refuse_file(file)
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file} cannot be loaded: {first_line(error)}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{file} holds a {type(settings).__name__}, not the settings of a network")
    refusals.refuse_configuration(file, settings)
    quantized.refuse_configuration(file, settings)
    layout = "transformers" if "model_type" in settings else "mamba_ssm" if "d_model" in settings else None
    if layout is None:
        raise UsageError(f"{file} has neither model_type (transformers) nor d_model (mamba_ssm): unknown layout")
    return layout, settings


def _sha256(file: Path) -> str:
    """SHA-256 of a file's content; remembered under ~/.cache, except for files of the Hub's cache, which it names."""
    real = file.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", real.name):
        return real.name
    stat = real.stat()
    memo = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mamba-scale-sweep" / "sha256"
    memo /= hashlib.sha256(f"{real}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ino}".encode()).hexdigest()
    if memo.is_file() and len(known := memo.read_text(encoding="utf-8")) == 64:
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
