"""The one place that chooses a back end and loads a checkpoint."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sweep import config
from sweep.errors import UsageError
from sweep.sites import Mixer, geometry, mixers

CPU_CHUNK = 64  # tokens per SSD chunk; measured on CPUs: 64 beats 32 and transformers' default of 256


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded network, ready to be observed.

    lm: the causal language model in eval mode. backbone: token ids [batch, seq] → hidden states, without
    lm_head and without a cache."""

    name: str
    lm: Any
    backbone: Callable[[Tensor], Tensor]
    mixers: tuple[Mixer, ...]
    device: torch.device
    backend: str

    @property
    def geometry(self) -> dict[str, int | str]:
        return {"n_layer": len(self.mixers), **geometry(self.mixers[0])}


def directory(model: config.Model) -> Path:
    """Where the checkpoint lies. Raises UsageError if that is no directory."""
    if model.path.startswith("pkg://"):
        package, _, rest = model.path.removeprefix("pkg://").partition("/")
        spec = importlib.util.find_spec(package)
        roots = list(spec.submodule_search_locations or []) if spec else []
        path = Path(roots[0] if roots else package) / rest
    else:
        path = Path(model.path).expanduser()
    if not path.is_dir():
        raise UsageError(f"model.path={path} is no directory; give the directory that holds config.json")
    return path


def identity(model: config.Model) -> str:
    """SHA-256 of the checkpoint's own files: equal weights and configuration give equal identities."""
    digest = hashlib.sha256()
    path = directory(model)
    for file in sorted(f for f in path.iterdir() if f.suffix in (".json", ".safetensors", ".bin")):
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def backend(device: str) -> str:
    """What will compute the activations, with its version: part of a calibration's identity."""
    versions = (f"{package} {metadata.version(package)}" for package in ("transformers", "torch"))
    return " ".join([*versions, torch.device(device).type])


def load(model: config.Model, device: str, dtype: str) -> Model:
    """Load the checkpoint in `dtype` onto `device`. Raises UsageError for whatever is wrong with it."""
    path = directory(model)
    if not (path / "config.json").is_file():
        raise UsageError(f"model.path={path} holds no config.json")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(
            f"device={device} asked for, but torch {torch.__version__} sees no CUDA device; use device=cpu"
        )
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        settings = transformers.AutoConfig.from_pretrained(path)
        if device == "cpu" and hasattr(settings, "chunk_size"):
            settings.chunk_size = CPU_CHUNK
        lm, report = transformers.AutoModelForCausalLM.from_pretrained(
            path, config=settings, dtype=getattr(torch, dtype), output_loading_info=True, weights_only=True
        )
    except Exception as error:  # every library below has errors of its own for a bad file
        raise UsageError(f"model.path={path} cannot be loaded: {_first_line(error)}") from error
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if names := sorted(map(str, report.get(what, ()))):
            raise UsageError(
                f"model.path={path}: the weights do not fit config.json: {what.replace('_', ' ')}: "
                f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
            )
    lm = lm.eval().requires_grad_(False).to(device)
    found = mixers(lm)
    if not found:
        raise UsageError(f"model.path={path}: {settings.model_type} has no Mamba mixer")

    def backbone(ids: Tensor) -> Tensor:
        return lm.base_model(ids, use_cache=False)[0]  # type: ignore[no-any-return]

    return Model(model.name, lm, backbone, tuple(found), torch.device(device), "transformers")


def encoder(model: config.Model) -> Callable[[str], NDArray[np.int64]]:
    """From text to token ids with the model's own tokenizer."""
    path = directory(model)
    settings = path / "tokenizer_config.json"
    if settings.is_file() and json.loads(settings.read_text()).get("tokenizer_class") == "ByT5Tokenizer":
        # what transformers' ByT5Tokenizer does, a thousand times faster; a test holds them together
        return lambda text: np.frombuffer(text.encode(), np.uint8).astype(np.int64) + 3
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    except Exception as error:
        raise UsageError(f"model.path={path} has no usable tokenizer: {_first_line(error)}") from error
    return lambda text: np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], np.int64)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
