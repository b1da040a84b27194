"""Checkpoints on disk: which layout they have, which files, and their tensors under one set of names.

Layouts:
  transformers  config.json with model_type; *.safetensors or *.bin, sharded or not
  mamba_ssm     config.json with d_model, n_layer, ssm_cfg; pytorch_model.bin or *.safetensors
                (github state-spaces/mamba, mamba_ssm/models/mixer_seq_simple.py)
  megatron      release/mp_rank_00/model_optim_rng.pt, as nvidia/mamba2-8b-3t-4k
                (github NVIDIA/Megatron-LM, megatron/core/models/mamba)
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sweep.errors import UsageError, first_line

FILES = ("*.json", "*.safetensors", "*.bin", "*.model", "*/mp_rank_00/*.pt", "latest_checkpointed_iteration.txt")
MEGATRON = "model_optim_rng.pt"
_TO_TRANSFORMERS = (  # patterns of mamba_ssm's and Megatron's names
    (r"^backbone\.embedding\.", "backbone.embeddings."),
    (r"^embedding\.word_embeddings\.", "backbone.embeddings."),
    (r"^decoder\.layers\.(\d+)\.mixer\.in_proj\.layer_norm_weight$", r"backbone.layers.\1.norm.weight"),
    (r"^decoder\.layers\.", "backbone.layers."),
    (r"^decoder\.final_norm\.", "backbone.norm_f."),
    (r"^output_layer\.", "lm_head."),
)


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
            settings = json.loads(config.read_text())
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
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
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


class Weights:
    """The tensors of files, memory-mapped and weights-only, under transformers' names."""

    def __init__(self, files: tuple[Path, ...], key: str | None = None) -> None:
        self._places: dict[str, tuple[Path, str]] = {}
        self._open: dict[Path, Any] = {}
        for file in files:
            self._open[file] = _open(file, key)
            for name in list(self._open[file].keys()):
                if name.endswith("_extra_state"):  # Transformer Engine's, no weights
                    continue
                ours = _transformers_name(name)
                if ours in self._places:
                    raise UsageError(f"{name} is in {self._places[ours][0]} and in {file}: remove the one not meant")
                self._places[ours] = (file, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def read(self, name: str, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> Tensor:
        """A copy of one tensor, in its own dtype if None is given; the file's pages behind it are handed back, so that
        no weight is held twice."""
        file, key = self._places[name]
        source = self._open[file]
        held: Tensor = source[key] if isinstance(source, dict) else source.get_tensor(key)
        copy = torch.empty(held.shape, dtype=dtype or held.dtype, device=device).copy_(held)
        if _mappable(file):
            _release(held)
        return copy

    def later(self) -> dict[str, Later]:
        """All tensors, in their own dtype, each read when it is asked for."""
        return {name: Later(self, name) for name in self}


@dataclass(frozen=True)
class Later:
    """A tensor not read yet. transformers asks for it as `tensor[...]`."""

    weights: Weights
    name: str

    def __getitem__(self, _: object) -> Tensor:
        return self.weights.read(self.name)


def _open(file: Path, key: str | None) -> Any:
    try:
        if file.suffix == ".safetensors":
            from safetensors import safe_open

            return safe_open(file, framework="pt")
        if key:
            return _megatron(file)[key]
        with warnings.catch_warnings():  # of a pickle's protocol: what cannot be read is an error all the same
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(file, map_location="cpu", weights_only=True, mmap=_mappable(file))
    except pickle.UnpicklingError as error:
        raise UsageError(_refused_pickle(file)) from error
    except Exception as error:  # torch, zip and safetensors all have their own
        hint = "it may be cut short: compare its size"
        raise UsageError(f"{file} cannot be loaded: {first_line(error)}; {hint}") from error


def _mappable(file: Path) -> bool:
    """Whether a file can be memory-mapped: all but what torch before 1.6 saved."""
    return file.suffix == ".safetensors" or zipfile.is_zipfile(file)


def _refused_pickle(file: Path) -> str:
    return (
        f"{file}: its weights are a pickle that holds more than tensors, which could run code of its own; refused. "
        "Convert them to safetensors where you trust them"
    )


def _megatron(file: Path) -> Any:
    """A Megatron checkpoint, nothing in it executed: of classes beside the tensors only husks are built."""
    husks: list[Any] = []
    for name in torch.serialization.get_unsafe_globals_in_checkpoint(file):
        module, _, leaf = name.rpartition(".")
        husks.append((type(leaf, (_Husk,), {"__module__": module}), name))
    with torch.serialization.safe_globals(husks):
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)


class _Husk:
    """Stands for an object of a class that is none of ours; keeps its attributes, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Husk:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...


def _transformers_name(name: str) -> str:
    for pattern, replacement in _TO_TRANSFORMERS:
        name = re.sub(pattern, replacement, name)
    return name


def _megatron_settings(file: Path) -> dict[str, Any]:
    """The geometry in mamba_ssm's words, from the arguments the checkpoint was trained with.

    What they do not say is Megatron's default for its Mamba-2 (d_state 128, headdim 64, 8 groups)."""
    try:
        saved = _megatron(file)
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


def _release(mapped: Tensor) -> None:
    """Tell the kernel that the file pages of a memory-mapped tensor are not needed any more."""
    if sys.platform != "linux":
        return
    page = os.sysconf("SC_PAGESIZE")
    begin = -(-mapped.data_ptr() // page) * page
    length = (mapped.data_ptr() + mapped.nbytes) // page * page - begin
    if length > 0:
        # MADV_DONTNEED (4): drops clean pages of a private file mapping; they would be read again on access
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), 4)


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
    digest = hashlib.sha256()
    with real.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        draft = memo.with_name(f"{memo.name}.{os.getpid()}")
        draft.write_text(digest.hexdigest())
        draft.replace(memo)
    except OSError:
        pass  # a home that cannot be written costs time, not correctness
    return digest.hexdigest()
