"""Quamba's saved scales: files → numbers by layer, checked.

Keys, as its `QCausalConv1D` (Quamba: Mamba-1) and `Quamb2Conv1D` (Quamba2: Mamba-2) store them under
`backbone.layers.N.mixer.conv1d.`; in hybrid models under `…layers.N.mixers.W4A8.conv1d.`:

Quamba   input_scale, output_scale, weight_scale: floats
Quamba2  x_scale, B_scale, C_scale; wx_scale, wB_scale, wC_scale: floats
         x_out_scales [ssd_groups, head_groups, dim_groups] or [1]; B_out_scales, C_out_scales [ssd_groups]
         x_head_group_range [ssd_groups, head_groups], x_dim_group_range [… , dim_groups]: int32, ends of ranges

A scale is that of int8 with 127 as the largest code. W4A16 mixers have no activation scales.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweep.core.errors import UsageError
from sweep.core.files import sha256

_KEY = re.compile(r"(?:^|\.)layers\.(\d+)\.(?:mixer|mixers\.(\w+))\.conv1d\.(\w+)$")
_FIRST = ("input_scale", "output_scale", "weight_scale")
_SECOND = ("x_scale", "B_scale", "C_scale", "wx_scale", "x_out_scales", "B_out_scales", "C_out_scales")
_RANGES = ("x_head_group_range", "x_dim_group_range")
_OPTIONAL = ("wB_scale", "wC_scale", *_RANGES)

ENDINGS = (".safetensors", ".bin")

Values = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Saved:
    """The scales of a checkpoint. layers: by number, the arrays under Quamba's names, floats as float64 []."""

    path: Path
    name: str
    digest: str
    family: str  # mamba1 or mamba2
    layers: dict[int, Values]
    without: list[int] = field(default_factory=list)  # layers of other precision, with no activation scales

    @property
    def grouped(self) -> bool:
        return any(values["x_out_scales"].ndim == 3 for values in self.layers.values() if "x_out_scales" in values)


def find(given: str) -> Saved:
    """The scales in a local file or directory or, where there is none of that name, in OWNER/NAME on the Hub.

    Raises UsageError as `read` does, and where the Hub has no such repository or cannot be reached."""
    path = Path(given).expanduser()
    if path.exists() or not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", given) or path.suffix in ENDINGS:
        return read(path)
    from sweep.core import hub

    root = hub.snapshot(given, "main", [f"*{ending}" for ending in ENDINGS], _whole, "CHECKPOINT")
    return replace(read(root), name=given.split("/")[1])


def _whole(directory: Path) -> bool:
    """True if checkpoint files are there, and all parts of one in numbered parts (…-00001-of-00003.bin)."""
    files = [file for ending in ENDINGS for file in directory.glob(f"*{ending}")]
    parts = [(file, int(match[1])) for file in files if (match := re.search(r"-\d+-of-(\d+)$", file.stem))]
    return bool(files) and all(sum(n == number for _, n in parts) >= number for _, number in parts)


def read(path: Path) -> Saved:
    """The scales in a file, or in the checkpoint files of a directory.

    Raises UsageError where it is missing, unreadable, of another kind, or holds what no scale can be."""
    files = _files(path)
    variants: dict[int, dict[str, Values]] = {}
    digest = hashlib.sha256()
    seen: list[str] = []
    for file in files:
        digest.update(bytes.fromhex(sha256(file)))
        for key, value in _load(file).items():
            seen.append(key)
            if match := _KEY.search(key):
                layer, variant, name = int(match[1]), match[2] or "", match[3]
                if name in (*_FIRST, *_SECOND, *_OPTIONAL) and value is not None:
                    variants.setdefault(layer, {}).setdefault(variant, {})[name] = _array(file, key, value)
    layers = {layer: values for layer in sorted(variants) if (values := _choose(path, layer, variants[layer]))}
    if not layers:
        example = f"; its keys look like {seen[0]}" if seen else ""
        raise UsageError(
            f"{path}: no scales of Quamba or Quamba2 here (expected keys such as "
            f"backbone.layers.0.mixer.conv1d.x_out_scales){example}"
        )
    second = {"x_out_scales" in values for values in layers.values()}
    if len(second) > 1:
        raise UsageError(f"{path}: some layers hold scales of Quamba, others of Quamba2")
    every = {int(m[1]) for key in seen if (m := re.search(r"(?:^|\.)layers\.(\d+)\.", key))}
    name = (
        path if path.is_dir() else path.parent if path.stem in ("model", "pytorch_model", "quamba") else path
    ).resolve()
    return Saved(
        path=path,
        name=name.name if name.is_dir() else name.stem,
        digest=digest.hexdigest(),
        family="mamba2" if second.pop() else "mamba1",
        layers=layers,
        without=sorted(every - layers.keys()),
    )


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise UsageError(f"{path}: no such file or directory")
    if path.is_file():
        return [path]
    for ending in ENDINGS:
        if files := sorted(path.glob(f"*{ending}")):
            return files
    raise UsageError(f"{path}: no *.safetensors and no *.bin in this directory")


def _load(file: Path) -> dict[str, Any]:
    """Names of a checkpoint's entries, with their values where they may be scales; nothing in it is run."""
    try:
        if file.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(file, "pt") as opened:
                return {key: opened.get_tensor(key) if _KEY.search(key) else None for key in opened.keys()}  # noqa: SIM118
        import torch

        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes a reader raise: there are many classes
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise UsageError(f"{file}: not a readable checkpoint ({reason})") from error
    if not isinstance(loaded, dict):
        raise UsageError(f"{file}: holds a {type(loaded).__name__}, not a state dict")
    return {str(key): value for key, value in loaded.items()}


def _array(file: Path, key: str, value: Any) -> NDArray[Any]:
    kind: Any = np.int32 if key.endswith("_range") else np.float64
    try:
        array: Any = np.asarray(value.double().numpy() if hasattr(value, "numpy") else value).astype(kind)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{file}: {key} is a {type(value).__name__}, not a number or a tensor") from error
    if kind is np.float64 and not (array.size and np.isfinite(array).all() and (array > 0).all()):
        raise UsageError(f"{file}: {key} is no scale: scales are finite and above 0")
    return np.asarray(array)


def _choose(path: Path, layer: int, variants: dict[str, Values]) -> Values | None:
    """The scales of a layer; of a hybrid one's variants, those of the first that has any."""
    for _, values in sorted(variants.items()):
        if "x_out_scales" in values:
            _check(path, layer, values)
            return values
        if {"input_scale", "output_scale"} <= values.keys():
            return {name: values[name].reshape(()) for name in _FIRST if name in values}
    return None


def _check(path: Path, layer: int, values: Values) -> None:
    if missing := [name for name in _SECOND if name not in values]:
        raise UsageError(f"{path}: layer {layer} lacks {', '.join(missing)}")
    for name in ("x_scale", "B_scale", "C_scale", "wx_scale", "wB_scale", "wC_scale"):
        if name in values:
            values[name] = values[name].reshape(())
    for name in ("B_out_scales", "C_out_scales"):
        values[name] = values[name].reshape(-1)
    x = values["x_out_scales"]
    if x.ndim != 3:
        values["x_out_scales"] = x = x.reshape(-1)
        if x.size != 1:
            raise UsageError(f"{path}: layer {layer}: x_out_scales has shape {x.shape}, expected [1] or 3 dimensions")
        return
    head, dim = (values.get(name) for name in _RANGES)
    if head is None or dim is None:
        raise UsageError(f"{path}: layer {layer}: x_out_scales is grouped but {_RANGES[head is not None]} is missing")
    for name, ranges, shape in (("x_head_group_range", head, x.shape[:2]), ("x_dim_group_range", dim, x.shape)):
        if ranges.shape != shape or np.any(np.diff(ranges, prepend=0) < 0):
            raise UsageError(
                f"{path}: layer {layer}: {name} of shape {json.dumps(ranges.shape)} does not hold ascending ends "
                f"for x_out_scales of shape {json.dumps(x.shape)}"
            )
