"""The one place that chooses a back end and loads a network."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sweep import config, hub
from sweep.errors import UsageError, first_line, out_of_memory
from sweep.models import assemble, checkpoints, fused, tokenizer
from sweep.models.checkpoints import Checkpoint
from sweep.models.geometry import to_transformers
from sweep.models.kernels import VERSION
from sweep.models.random_weights import RandomWeights
from sweep.sites import Mixer, geometry, mixers

FAMILIES = (
    "mamba, mamba2, falcon_mamba, jamba, zamba, zamba2, bamba, falcon_h1, nemotron_h, granitemoehybrid "
    "(transformers), and mamba_ssm's Mamba1 and Mamba2"
)


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


def checkpoint(model: config.Model) -> Checkpoint:
    """The checkpoint of a model, fetched from the Hub if need be. Raises UsageError if it is not there."""
    if model.path is None:
        return checkpoints.open_checkpoint(
            hub.snapshot(str(model.repo), model.revision, checkpoints.FILES, checkpoints.whole, "model.path")
        )
    if model.path.startswith("pkg://"):
        package, _, rest = model.path.removeprefix("pkg://").partition("/")
        spec = importlib.util.find_spec(package)
        roots = list(spec.submodule_search_locations or []) if spec else []
        return checkpoints.open_checkpoint(Path(roots[0] if roots else package) / rest)
    return checkpoints.open_checkpoint(Path(model.path).expanduser())


def identity(model: config.Model) -> str:
    """Of a checkpoint, SHA-256 of its files; of random weights, `random`, the seed and SHA-256 of the geometry."""
    if model.weights == "random":
        described = json.dumps(_described(model), sort_keys=True, default=str)
        return f"random:seed={model.seed}:sha256:{hashlib.sha256(described.encode()).hexdigest()}"
    return checkpoint(model).identity


def origin(model: config.Model) -> dict[str, str | None]:
    """Where the weights come from: the repository and the commit that its revision stood for, or the path."""
    if model.weights == "random":
        return {"repo": None, "commit": None, "path": None}
    path = checkpoint(model).path
    commit = hub.commit(path) if model.path is None else None
    return {"repo": None if model.path else model.repo, "commit": commit, "path": str(path)}


def settings(model: config.Model) -> Any:
    """The network's configuration in transformers' words."""
    import transformers

    if model.weights == "random" and model.geometry:
        return to_transformers(model.geometry)
    found = checkpoint(model) if model.weights == "trained" else _configuration_only(model)
    if found.layout != "transformers":
        return to_transformers(found.settings)
    try:
        return transformers.AutoConfig.from_pretrained(found.path)
    except Exception as error:
        raise UsageError(
            f"{found.path}: transformers {transformers.__version__} cannot read "
            f"model_type={found.settings['model_type']} ({first_line(error)}); supported are {FAMILIES}"
        ) from error


def backend(model: config.Model, device: str) -> str:
    """What will compute the activations, with its version: part of a calibration's identity."""
    versions = [f"{package} {metadata.version(package)}" for package in ("transformers", "torch")]
    kind = torch.device(device).type
    by_authors = _chosen(model, device) == "mamba_ssm"
    if by_authors:
        versions[0] = fused.version()
    versions.append(kind)
    if kind == "cpu":
        versions.append(f"kernels {VERSION}")
    elif not by_authors:
        versions.append(fused.version())  # which transformers calls, too, where they are installed
    return " ".join(filter(None, versions))


def load(model: config.Model, device: str, dtype: str) -> Model:
    """Load the network in `dtype` onto `device`. Raises UsageError for whatever is wrong with it."""
    check(device)
    chosen = _chosen(model, device)
    shape = settings(model)
    target = getattr(torch, dtype)
    with out_of_memory(f"{model.name} does not fit onto {device} in {dtype}: try dtype=bfloat16 or model.stream=true"):
        if is_pure(shape):
            build = fused.network if chosen == "mamba_ssm" else assemble.network
            try:
                lm = build(shape, weights(model, shape), target, device)
            except UsageError as error:
                raise UsageError(f"model={model.name}: {error}") from error
        elif chosen == "mamba_ssm":
            raise UsageError(f"model.backend=mamba_ssm has no {shape.model_type}; use model.backend=transformers")
        else:
            lm = _from_transformers(model, shape, target, device)
    found = mixers(lm)
    if not found:
        raise UsageError(f"model={model.name}: {shape.model_type} has no Mamba mixer; supported are {FAMILIES}")

    def backbone(ids: Tensor) -> Tensor:
        if chosen == "mamba_ssm":
            return lm.backbone(ids)  # type: ignore[no-any-return]
        return lm.base_model(ids, use_cache=False)[0]  # type: ignore[no-any-return]

    return Model(model.name, lm, backbone, tuple(found), torch.device(device), chosen)


def is_pure(shape: Any) -> bool:
    """Whether every layer is a Mamba mixer and nothing else: then tensors are loaded one by one."""
    return shape.model_type in ("mamba", "mamba2")


def weights(model: config.Model, shape: Any) -> assemble.Source:
    """The named tensors of a pure Mamba network."""
    if model.weights == "random":
        return RandomWeights(model.seed, assemble.shapes(assemble.skeleton(shape, "cpu")))
    return checkpoint(model).weights


def encoder(model: config.Model) -> tokenizer.Encode:
    """From text to token ids with the model's own tokenizer; bytes where the weights are random."""
    vocabulary = _described(model).get("vocab_size")
    if model.weights == "random":
        return tokenizer.byte_encoder(vocabulary or 256)
    encode = tokenizer.encoder(model.tokenizer or checkpoint(model).path)
    return tokenizer.checked(encode, vocabulary, f"model={model.name}") if vocabulary else encode


def byte_counter(model: config.Model) -> tokenizer.Count:
    """How many bytes of text the ids of `encoder` stand for."""
    if model.weights == "random":
        return len
    return tokenizer.counter(model.tokenizer or checkpoint(model).path)


def _described(model: config.Model) -> dict[str, Any]:
    """The network's configuration in the words it was written in."""
    if model.weights == "random":
        return model.geometry or _configuration_only(model).settings
    return checkpoint(model).settings


def _configuration_only(model: config.Model) -> Checkpoint:
    """A checkpoint of which nothing but config.json needs to be there."""
    if model.path:
        path = Path(model.path).expanduser()
    else:
        name = "config.json"
        path = hub.snapshot(str(model.repo), model.revision, [name], lambda p: (p / name).is_file(), "model.path")
    return checkpoints.open_checkpoint(path, weights=False)


def _chosen(model: config.Model, device: str) -> str:
    if model.stream:
        if model.backend == "mamba_ssm":
            raise UsageError("model.stream=true needs model.backend=transformers")
        return "transformers"
    if model.backend == "auto":
        native = device.startswith("cuda") and fused.available() and is_pure(settings(model))
        return "mamba_ssm" if native else "transformers"
    if model.backend == "mamba_ssm":
        fused.check(device)
    return model.backend


def check(device: str) -> None:
    """Raises UsageError where it is not there."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise UsageError(f"device={device} is no device; allowed: cpu, cuda, cuda:N") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"device={device} asked for, but torch {torch.__version__} sees no CUDA device; use device=cpu"
        )


def _from_transformers(model: config.Model, shape: Any, dtype: torch.dtype, device: str) -> Any:
    """Any other causal LM of transformers, by its own loader, which takes the tensors one by one from `Weights`: from
    the files it would hold what it converts twice."""
    os.environ.setdefault("HF_DEACTIVATE_ASYNC_LOAD", "1")  # its threads read all tensors before the first is needed
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    network = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(shape), None)
    if network is None:
        raise UsageError(
            f"model={model.name}: {shape.model_type} is no causal language model; supported are {FAMILIES}"
        )
    for key in ("chunk_size", "mamba_chunk_size"):
        if device == "cpu" and hasattr(shape, key):
            setattr(shape, key, assemble.CPU_CHUNK)
    try:
        if model.weights == "random":
            torch.manual_seed(model.seed)
            lm = transformers.AutoModelForCausalLM.from_config(shape, dtype=dtype)
            return lm.eval().requires_grad_(False).to(device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lm, report = network.from_pretrained(
                None,
                config=shape,
                state_dict=checkpoint(model).weights.later(),
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are reported, and refused below by name
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except UsageError as error:
        raise UsageError(f"model={model.name}: {error}") from error
    except Exception as error:  # every library below has errors of its own for a bad file
        raise UsageError(f"model={model.name} cannot be loaded: {first_line(error)}") from error
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if names := sorted(key if isinstance(key, str) else key[0] for key in report.get(what, ())):
            raise UsageError(
                f"{checkpoint(model).path}: the weights do not fit config.json: {what.replace('_', ' ')}: "
                f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
            )
    return lm.eval().requires_grad_(False).to(device)
