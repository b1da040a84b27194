"""Words to refuse a directory or file in that is no usable checkpoint: they say what it is instead."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from sweep.core.errors import UsageError
from sweep.models.families import FAMILIES, supported

# Architectures with Mamba layers that run only by code which comes with their checkpoints.
_REMOTE_CODE = ("hymba", "plamo", "plamo2", "plamo3")
_MAMBA3 = (
    "Mamba-3 is not supported: it has no convolution, hence other activations than Mamba-1 and Mamba-2 "
    "(allowed: Mamba1, Mamba2)"
)
_BEGINNINGS = (  # of files, and what they are
    (b"version https://git-lfs.github.com/spec/", "a git-lfs pointer, not the file itself; run git lfs pull there"),
    (b"GGUF", "a GGUF file, made for llama.cpp and mostly quantized; give the original in safetensors"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (TensorFlow); give the weights in safetensors"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"\xfd7zXZ\0", "an xz archive; unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it"),
    (b"<!doctype html", "a web page, not the file itself; download it again"),
    (b"<html", "a web page, not the file itself; download it again"),
)
_OTHERS = (  # what lies in a directory without the files that are read, the most telling first
    ("adapter_config.json", "an adapter (PEFT); merge it into its base model (merge_and_unload) and give the result"),
    ("*.gguf", "GGUF files, made for llama.cpp and mostly quantized; give the original in safetensors"),
    ("params.json", "Mistral's own layout; add config.json of the same repository, which transformers reads"),
    ("*.distcp", "a distributed checkpoint (torch or Megatron); merge it into one file first"),
    ("zero_to_fp32.py", "a DeepSpeed checkpoint; run its zero_to_fp32.py first"),
    ("mp_rank_*_model_states.pt", "a DeepSpeed checkpoint; merge it into one file first"),
    ("*.onnx", "an ONNX export; give the original in safetensors"),
    ("*.nemo", "a NeMo archive; unpack it"),
    ("tf_model.h5", "TensorFlow weights; give them in safetensors"),
    ("flax_model.msgpack", "Flax weights; give them in safetensors"),
    ("*.npz", "NumPy arrays; give the weights in safetensors"),
)


def refuse_file(file: Path) -> None:
    """Raises UsageError for a file whose beginning says that it is something else, or that holds nothing."""
    with file.open("rb") as stream:
        begin = stream.read(64)
    if not begin:
        raise UsageError(f"{file} is empty; download it again")
    if not begin.strip(b"\0") and len(begin) == 64:
        raise UsageError(f"{file} begins with zeros, a download that was not finished; download it again")
    for beginning, words in _BEGINNINGS:
        if begin[: len(beginning)].lower() == beginning.lower():
            raise UsageError(f"{file} is {words}")


def refuse_directory(path: object, names: Iterable[str]) -> None:
    """Raises UsageError for a directory, by its file names, of another kind of checkpoint."""
    present = list(names)
    for pattern, words in _OTHERS:
        if any(fnmatch(name.rpartition("/")[2], pattern) for name in present):
            raise UsageError(f"model.path={path} holds {words}")


def refuse_configuration(file: Path, settings: dict[str, Any]) -> None:
    """Raises UsageError for a network that no code of transformers computes.

    Nothing that comes with a checkpoint is ever run."""
    kind = str(settings.get("model_type", ""))
    ssm = settings.get("ssm_cfg")
    layer = ssm.get("layer") if isinstance(ssm, dict) else None
    if str(layer).lower().startswith("mamba3") or kind.lower().replace("-", "").startswith("mamba3"):
        raise UsageError(f"{file}: {_MAMBA3}")
    if "peft_type" in settings:
        raise UsageError(f"{file} describes an adapter ({settings['peft_type']}); merge it into its base model first")
    if not kind or kind in FAMILIES:
        return
    import transformers  # takes seconds: only for a network that may be refused

    if kind in transformers.CONFIG_MAPPING:
        return
    if "auto_map" in settings or kind in _REMOTE_CODE:
        raise UsageError(
            f"{file}: model_type={kind} is computed by code that comes with the checkpoint (remote code), which is "
            f"never run; supported are {supported()}"
        )
    raise UsageError(
        f"{file}: transformers {transformers.__version__} does not know model_type={kind}; supported are {supported()}"
    )
