"""The one place that chooses a back end and loads a network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from sweep.config import knobs
from sweep.core.errors import UsageError, out_of_memory
from sweep.models import assemble, checkpoint_dir, hf_loader, mamba_ssm_backend, source, stack, tokenizer
from sweep.models.families import FAMILIES, supported
from sweep.models.kernels.patch import VERSION
from sweep.models.mixer import Mixer, geometry, mixers
from sweep.models.random_weights import RandomWeights


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


def backend(model: knobs.Model, device: str) -> str:
    """The software that computes the activations, with versions: part of a calibration's identity."""
    versions = [f"{package} {metadata.version(package)}" for package in ("transformers", "torch")]
    kind = torch.device(device).type
    by_authors = _chosen(model, device) == "mamba_ssm"
    if by_authors:
        versions[0] = mamba_ssm_backend.version()
    elif stack.needed(source.described(model)):
        versions.append(f"stack {stack.VERSION}")
    versions.append(kind)
    if kind == "cpu":
        versions.append(f"kernels {VERSION}")
    else:
        if not by_authors:
            versions.append(mamba_ssm_backend.version())  # which transformers calls, too, where they are installed
        versions.append("sums 2")  # of |x|, batch after batch
    return " ".join(filter(None, versions))


def load(model: knobs.Model, device: str, dtype: str) -> Model:
    """Load the network in `dtype` onto `device`. Raises UsageError for whatever is wrong with it."""
    check(device)
    chosen = _chosen(model, device)
    shape = source.settings(model)
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
            opened = None if model.weights == "random" else source.checkpoint(model)
            lm = hf_loader.network(model.name, shape, opened, model.seed, target, device)
    observed = mixers(lm)

    def backbone(ids: Tensor) -> Tensor:
        if chosen == "mamba_ssm" or isinstance(shape, stack.Stack):
            return lm.backbone(ids)  # type: ignore[no-any-return]
        return lm.base_model(ids, use_cache=False)[0]  # type: ignore[no-any-return]

    return Model(model.name, lm, backbone, tuple(observed), torch.device(device), chosen)


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
    raise UsageError(f"model={name}: {shape.model_type} has no Mamba mixer; supported are {supported()}")


def is_pure(shape: Any) -> bool:
    """True for a network of mamba_ssm's own, a plain sequence of blocks: then tensors are loaded one by one."""
    return shape.model_type in (*checkpoint_dir.STACKS, stack.Stack.model_type)


def weights(model: knobs.Model, shape: Any) -> assemble.Source:
    """The named tensors of a network whose tensors are loaded one by one."""
    if model.weights == "random":
        return RandomWeights(model.seed, assemble.shapes(assemble.skeleton(shape, "cpu")))
    return source.checkpoint(model).weights


def encoder(model: knobs.Model) -> tokenizer.Encode:
    """From text to token ids with the model's own tokenizer; bytes where the weights are random."""
    if model.weights == "random":
        return tokenizer.byte_encoder(source.described(model).get("vocab_size") or 256)
    encode = tokenizer.encoder(model.tokenizer or source.checkpoint(model).path)
    # rows, not words: special tokens are often put into those that fill the table up to a multiple
    return tokenizer.checked(encode, source.settings(model).vocab_size, f"model={model.name}")


def byte_counter(model: knobs.Model) -> tokenizer.Count:
    """Counter of the bytes of text that ids of `encoder` stand for."""
    if model.weights == "random":
        return len
    return tokenizer.counter(model.tokenizer or source.checkpoint(model).path)


def _chosen(model: knobs.Model, device: str) -> str:
    if model.stream:
        if model.backend == "mamba_ssm":
            raise UsageError("model.stream=true needs model.backend=transformers")
        return "transformers"
    if model.backend == "auto":
        if not (device.startswith("cuda") and mamba_ssm_backend.available()):
            return "transformers"
        shape = source.settings(model)
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
