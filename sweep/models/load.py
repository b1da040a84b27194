"""The one place that chooses a back end and loads a network."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sweep.config import knobs
from sweep.core import hub
from sweep.core.errors import UsageError, out_of_memory
from sweep.models import assemble, checkpoint_dir, hf_loader, mamba_ssm_backend, stack, tokenizer, words
from sweep.models.checkpoint_dir import Checkpoint
from sweep.models.kernels.patch import VERSION
from sweep.models.mixer import Mixer, geometry, mixers
from sweep.models.random_weights import RandomWeights
from sweep.models.refusals import FAMILIES, SUPPORTED


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


def checkpoint(model: knobs.Model) -> Checkpoint:
    """The checkpoint of a model, fetched from the Hub if need be. Raises UsageError if it is not there."""
    if model.path is None:
        return checkpoint_dir.open_checkpoint(_fetched(model))
    return checkpoint_dir.open_checkpoint(_local(model.path))


def _local(path: str) -> Path:
    """The directory that model.path names, be it inside an installed package."""
    if not path.startswith("pkg://"):
        return Path(path).expanduser()
    package, _, rest = path.removeprefix("pkg://").partition("/")
    spec = importlib.util.find_spec(package)
    roots = list(spec.submodule_search_locations or []) if spec else []
    return Path(roots[0] if roots else package) / rest


def _fetched(model: knobs.Model) -> Path:
    """The directory with the files of a model of the Hub that are read: configuration, weights, and its tokenizer
    where no other is given."""
    own = () if model.tokenizer else tokenizer.FILES
    where = f"https://huggingface.co/{model.repo}"
    return hub.snapshot(
        str(model.repo),
        model.revision,
        lambda names, read: checkpoint_dir.files_to_fetch(names, read, where, own),
        lambda path: checkpoint_dir.whole(path) and (not own or tokenizer.is_in(path)),
        "model.path",
    )


def identity(model: knobs.Model) -> str:
    """Of a checkpoint, SHA-256 of its files; of random weights, `random`, the seed and SHA-256 of the geometry."""
    if model.weights == "random":
        described = json.dumps(_described(model), sort_keys=True, default=str)
        return f"random:seed={model.seed}:sha256:{hashlib.sha256(described.encode()).hexdigest()}"
    return checkpoint(model).identity


def origin(model: knobs.Model) -> dict[str, str | None]:
    """Where the weights come from: the repository and the commit that its revision stood for, or the path."""
    if model.weights == "random":
        return {"repo": None, "commit": None, "path": None}
    path = checkpoint(model).path
    commit = hub.commit(path) if model.path is None else None
    return {"repo": None if model.path else model.repo, "commit": commit, "path": str(path)}


def settings(model: knobs.Model) -> Any:
    """The network's configuration in transformers' words; a Stack where it has none."""
    if model.weights == "random" and model.geometry:
        return stack.shape(model.geometry)
    found = checkpoint(model) if model.weights == "trained" else _configuration_only(model)
    if found.layout != "transformers":
        return stack.shape(found.settings)
    return words.configuration(found.path, found.settings)


def backend(model: knobs.Model, device: str) -> str:
    """What will compute the activations, with its version: part of a calibration's identity."""
    versions = [f"{package} {metadata.version(package)}" for package in ("transformers", "torch")]
    kind = torch.device(device).type
    by_authors = _chosen(model, device) == "mamba_ssm"
    if by_authors:
        versions[0] = mamba_ssm_backend.version()
    elif stack.needed(_described(model)):
        versions.append(f"stack {stack.VERSION}")
    versions.append(kind)
    if kind == "cpu":
        versions.append(f"kernels {VERSION}")
    elif not by_authors:
        versions.append(mamba_ssm_backend.version())  # which transformers calls, too, where they are installed
    return " ".join(filter(None, versions))


def load(model: knobs.Model, device: str, dtype: str) -> Model:
    """Load the network in `dtype` onto `device`. Raises UsageError for whatever is wrong with it."""
    check(device)
    chosen = _chosen(model, device)
    shape = settings(model)
    target = getattr(torch, dtype)
    with out_of_memory(f"{model.name} does not fit onto {device} in {dtype}: try dtype=bfloat16 or model.stream=true"):
        _require_mixers(model.name, shape)
        if is_pure(shape):
            build = mamba_ssm_backend.network if chosen == "mamba_ssm" else assemble.network
            try:
                lm = build(shape, weights(model, shape), target, device)
            except UsageError as error:
                raise UsageError(f"model={model.name}: {error}") from error
        elif chosen == "mamba_ssm":
            raise UsageError(f"model.backend=mamba_ssm has no {shape.model_type}; use model.backend=transformers")
        else:
            source = None if model.weights == "random" else checkpoint(model)
            lm = hf_loader.network(model.name, shape, source, model.seed, target, device)
    found = mixers(lm)

    def backbone(ids: Tensor) -> Tensor:
        if chosen == "mamba_ssm" or isinstance(shape, stack.Stack):
            return lm.backbone(ids)  # type: ignore[no-any-return]
        return lm.base_model(ids, use_cache=False)[0]  # type: ignore[no-any-return]

    return Model(model.name, lm, backbone, tuple(found), torch.device(device), chosen)


def _require_mixers(name: str, shape: Any) -> None:
    """Raises UsageError for a network without a Mamba layer, before its weights are read."""
    if is_pure(shape) or not hf_loader.is_causal(shape) or mixers(assemble.skeleton(copy.deepcopy(shape), "cpu")):
        return
    if shape.model_type in FAMILIES:
        layers = ", ".join(sorted(set(getattr(shape, "layer_types", None) or ["attention"])))
        raise UsageError(
            f"model={name}: this {shape.model_type} has no Mamba layer (all of its {shape.num_hidden_layers} are "
            f"{layers}), so there is nothing to observe; give a member of the family that has some"
        )
    raise UsageError(f"model={name}: {shape.model_type} has no Mamba mixer; supported are {SUPPORTED}")


def is_pure(shape: Any) -> bool:
    """Whether it is one of mamba_ssm's own, a plain sequence of blocks: then tensors are loaded one by one."""
    return shape.model_type in (*checkpoint_dir.STACKS, stack.Stack.model_type)


def weights(model: knobs.Model, shape: Any) -> assemble.Source:
    """The named tensors of a network whose tensors are loaded one by one."""
    if model.weights == "random":
        return RandomWeights(model.seed, assemble.shapes(assemble.skeleton(shape, "cpu")))
    return checkpoint(model).weights


def encoder(model: knobs.Model) -> tokenizer.Encode:
    """From text to token ids with the model's own tokenizer; bytes where the weights are random."""
    if model.weights == "random":
        return tokenizer.byte_encoder(_described(model).get("vocab_size") or 256)
    encode = tokenizer.encoder(model.tokenizer or checkpoint(model).path)
    # rows, not words: special tokens are often put into those that fill the table up to a multiple
    return tokenizer.checked(encode, settings(model).vocab_size, f"model={model.name}")


def byte_counter(model: knobs.Model) -> tokenizer.Count:
    """How many bytes of text the ids of `encoder` stand for."""
    if model.weights == "random":
        return len
    return tokenizer.counter(model.tokenizer or checkpoint(model).path)


def _described(model: knobs.Model) -> dict[str, Any]:
    """The network's configuration in the words it was written in."""
    if model.weights == "random":
        return model.geometry or _configuration_only(model).settings
    return checkpoint(model).settings


def _configuration_only(model: knobs.Model) -> Checkpoint:
    """A checkpoint of which nothing but config.json needs to be there."""
    if model.path:
        path = _local(model.path)
    else:
        name = "config.json"
        path = hub.snapshot(str(model.repo), model.revision, [name], lambda p: (p / name).is_file(), "model.path")
    return checkpoint_dir.open_checkpoint(path, weights=False)


def _chosen(model: knobs.Model, device: str) -> str:
    if model.stream:
        if model.backend == "mamba_ssm":
            raise UsageError("model.stream=true needs model.backend=transformers")
        return "transformers"
    if model.backend == "auto":
        if not (device.startswith("cuda") and mamba_ssm_backend.available()):
            return "transformers"
        shape = settings(model)
        return "mamba_ssm" if is_pure(shape) and mamba_ssm_backend.expresses(shape) else "transformers"
    if model.backend == "mamba_ssm":
        mamba_ssm_backend.check(device)
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
