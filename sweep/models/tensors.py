"""The tensors of a checkpoint's files, under one set of names, each read when it is asked for and nothing executed."""

from __future__ import annotations

import ctypes
import math
import os
import pickle
import re
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sweep.core.errors import UsageError, first_line

_TO_TRANSFORMERS = (  # patterns of mamba_ssm's and Megatron's names
    (r"^backbone\.embedding\.", "backbone.embeddings."),
    (r"^embedding\.word_embeddings\.", "backbone.embeddings."),
    (r"^decoder\.layers\.(\d+)\.mixer\.in_proj\.layer_norm_weight$", r"backbone.layers.\1.norm.weight"),
    (r"^decoder\.layers\.", "backbone.layers."),
    (r"^decoder\.final_norm\.", "backbone.norm_f."),
    (r"^output_layer\.", "lm_head."),
)
_SAFETENSORS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # its words for dtypes


class Weights:
    """The tensors of files, memory-mapped and weights-only, under transformers' names.

    key: where in a file the tensors lie, None if they are all it holds. Raises UsageError for a file that cannot be
    read or is a pickle of more than tensors, and for a name that two files have."""

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

    def dtype(self) -> str:
        """What most of the values are stored as, such as `bfloat16`. Reads no tensor."""
        sizes: Counter[str] = Counter()
        for file, name in self._places.values():
            source = self._open[file]
            if isinstance(source, dict):
                sizes[str(source[name].dtype).removeprefix("torch.")] += source[name].numel()
            else:
                part = source.get_slice(name)
                stored = part.get_dtype()
                sizes[_SAFETENSORS.get(stored, stored)] += math.prod(part.get_shape())
        return max(sizes, key=lambda kind: sizes[kind])

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
            return megatron(file)[key]
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


def megatron(file: Path) -> Any:
    """What a Megatron checkpoint holds (`args`, `model`, …), tensors memory-mapped and nothing executed: of classes
    beside the tensors only husks are built. Raises what torch.load does for a file that is none."""
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
