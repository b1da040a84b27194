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
from sweep.models import quantized, refusals
from sweep.models.names import transformers_name

_SAFETENSORS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # its words for dtypes
# Where trainers put a network's tensors in what they save, and what besides tensors their files may hold: settings,
# of which only husks are built.
_NESTED = ("state_dict", "model", "model_state_dict", "module", "network", "weights")
_SETTINGS = re.compile(r"(argparse|omegaconf|pathlib|lightning|pytorch_lightning|typing)\b")


class Weights:
    """The tensors of files, memory-mapped and weights-only, under transformers' names.

    stack: whether they are a stack of Mamba blocks, or of another network. Raises UsageError for a file that cannot be
    read, is a pickle of more than tensors and settings or holds codes in place of weights, and for a name that comes
    twice."""

    def __init__(self, files: tuple[Path, ...], stack: bool = True, trained_with: str | None = None) -> None:
        self._places: dict[str, tuple[Path, str]] = {}
        self._open: dict[Path, Any] = {}
        for file in files:
            source = self._open[file] = _open(file, trained_with)
            names = [n for n in list(source.keys()) if not n.endswith("_extra_state")]  # Transformer Engine's
            quantized.refuse_names(file, names)
            for name in names:
                quantized.refuse_dtype(file, name, _dtype(file, source, name))
                ours = transformers_name(name, stack)
                if ours in self._places:
                    there, other = self._places[ours]
                    where = f"in {there} and in {file}" if there != file else f"in {file} twice, also as {other}"
                    raise UsageError(f"{name} is {where}: remove the one not meant")
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
        quantized.refuse_codes(file, key, held)
        copy = torch.empty(held.shape, dtype=dtype or held.dtype, device=device).copy_(held)
        if _mappable(file):
            _release(held)
        return copy

    def dtype(self) -> str:
        """The dtype of most of the values, such as `bfloat16`. Reads no tensor."""
        sizes: Counter[str] = Counter()
        for file, name in self._places.values():
            source = self._open[file]
            shape = source[name].shape if isinstance(source, dict) else source.get_slice(name).get_shape()
            stored = str(_dtype(file, source, name)).removeprefix("torch.")
            sizes[_SAFETENSORS.get(stored, stored)] += math.prod(shape)
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


def _open(file: Path, trained_with: str | None) -> Any:
    """Reader of a file's tensors by name: a dict, or safetensors' own. The content tells the format, not the name."""
    refusals.refuse_file(file)
    try:
        if _is_safetensors(file):
            from safetensors import safe_open

            return safe_open(file, framework="pt")
        if trained_with == "megatron":
            return megatron(file)["model"]
        return _state(file, _load(file))
    except UsageError:
        raise
    except pickle.UnpicklingError as error:
        raise UsageError(_refused_pickle(file)) from error
    except Exception as error:  # torch, zip and safetensors all have their own
        hint = "it may be cut short: compare its size"
        raise UsageError(f"{file} cannot be loaded: {first_line(error)}; {hint}") from error


def _load(file: Path) -> Any:
    with warnings.catch_warnings():  # of a pickle's protocol: what cannot be read is an error all the same
        warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
        mmap = _mappable(file)
        try:
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
        except pickle.UnpicklingError:
            if not mmap or not (names := torch.serialization.get_unsafe_globals_in_checkpoint(file)):
                raise
            if not all(map(_SETTINGS.match, names)):
                raise
            with torch.serialization.safe_globals(_husks(names)):
                return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)


def _state(file: Path, loaded: Any, places: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The tensors by name that a file holds by itself, or in one of the places where trainers put them."""
    under = f" under {'.'.join(places)}" if places else ""
    said = "not tensors by name; save the network's state_dict(), by itself or as state_dict"
    if not isinstance(loaded, dict):
        raise UsageError(f"{file} holds a {type(loaded).__name__}{under}, {said}")
    names = [name for name in loaded if isinstance(name, str) and not name.endswith("_extra_state")]
    quantized.refuse_names(file, names)
    strange = [name for name in names if not isinstance(loaded[name], Tensor)]
    if names and not strange:
        return loaded
    if (key := next((key for key in _NESTED if key in strange), None)) and len(places) < len(_NESTED):
        return _state(file, loaded[key], (*places, key))
    held = f"a {type(loaded[strange[0]]).__name__} as {strange[0]}" if strange else "nothing under a name"
    raise UsageError(f"{file} holds {held}{under}, {said}")


def _dtype(file: Path, source: Any, name: str) -> torch.dtype | str:
    """The type a tensor is stored in; in safetensors' words where its reader has the file."""
    if not isinstance(source, dict):
        return str(source.get_slice(name).get_dtype())
    if not isinstance(source[name], Tensor):
        raise UsageError(f"{file} holds a {type(source[name]).__name__} as {name}, not a tensor")
    return source[name].dtype  # type: ignore[no-any-return]


def _is_safetensors(file: Path) -> bool:
    """True if a file begins as safetensors do: the length of a header, and JSON."""
    with file.open("rb") as stream:
        begin = stream.read(9)
    return len(begin) == 9 and begin[8:] == b"{" and int.from_bytes(begin[:8], "little") <= file.stat().st_size


def _mappable(file: Path) -> bool:
    """True if a file can be memory-mapped: all but those of torch before 1.6."""
    return _is_safetensors(file) or zipfile.is_zipfile(file)


def _refused_pickle(file: Path) -> str:
    return (
        f"{file}: its weights are a pickle that holds more than tensors, which could run code of its own; refused. "
        "Convert them to safetensors where you trust them"
    )


def megatron(file: Path) -> Any:
    """Content of a Megatron checkpoint (`args`, `model`, …), tensors memory-mapped and nothing executed: of classes
    beside the tensors only husks are built. Raises what torch.load does for a file that is none."""
    refusals.refuse_file(file)
    with torch.serialization.safe_globals(_husks(torch.serialization.get_unsafe_globals_in_checkpoint(file))):
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)


def _husks(names: list[str]) -> list[Any]:
    """Classes of these names that do nothing, for a pickle that asks for them."""
    husks: list[Any] = []
    for name in names:
        module, _, leaf = name.rpartition(".")
        husks.append((type(leaf, (_Husk,), {"__module__": module}), name))
    return husks


class _Husk:
    """Stub of an object of a foreign class; keeps its attributes, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Husk:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...


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
