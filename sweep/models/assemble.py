"""From a configuration and named tensors to a network in memory: one tensor at a time, nothing held twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sweep.core.errors import UsageError
from sweep.models.stack import Stack

CPU_CHUNK = 64  # tokens per SSD chunk; measured on CPUs: 64 beats 32 and transformers' default of 256


class Source(Protocol):
    """Named tensors, from files or drawn."""

    def __iter__(self) -> Iterator[str]: ...
    def __contains__(self, name: str) -> bool: ...
    def read(self, name: str, dtype: torch.dtype, device: str | torch.device = "cpu") -> Tensor: ...


def skeleton(config: Any, device: str) -> Any:
    """The causal LM of a transformers MambaConfig or Mamba2Config, or of a Stack, without memory for its weights."""
    if isinstance(config, Stack):
        from sweep.models import blocks

        return blocks.build(config)
    import transformers

    if device == "cpu" and hasattr(config, "chunk_size"):
        config.chunk_size = CPU_CHUNK
    with torch.device("meta"):
        lm = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return lm.eval().requires_grad_(False)


def shapes(lm: nn.Module) -> dict[str, torch.Size]:
    """Names and shapes of the weights; tied ones once."""
    return {name: parameter.shape for name, parameter in lm.named_parameters()}


def fill(
    module: nn.Module, source: Source, names: Callable[[str], str], dtype: torch.dtype | None, device: str
) -> None:
    """Give every parameter of a module that lies on `meta` its tensor.

    names: from a parameter's name to the source's. dtype: None keeps each parameter's own.
    Raises UsageError where a tensor is missing or of another shape."""
    for name, parameter in list(module.named_parameters()):
        full = names(name)
        if full not in source:
            raise UsageError(f"the weights do not fit the configuration: {full} is missing")
        tensor = source.read(full, dtype or parameter.dtype, device)
        if tensor.shape != parameter.shape:
            raise UsageError(
                f"the weights do not fit the configuration: {full} is {list(tensor.shape)} "
                f"where {list(parameter.shape)} was expected"
            )
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=False))


def network(config: Any, source: Source, dtype: torch.dtype, device: str) -> Any:
    """A causal LM with the weights of a source, all of them used."""
    lm = skeleton(config, device)
    expected = shapes(lm)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    if surplus := sorted(set(source) - set(expected) - tied):
        raise UsageError(
            f"the weights do not fit the configuration: {len(surplus)} are unknown to it: {', '.join(surplus[:3])}"
        )
    if tied & set(source) and not torch.equal(
        source.read("lm_head.weight", dtype, device), source.read("backbone.embeddings.weight", dtype, device)
    ):
        raise UsageError(
            "the weights do not fit the configuration, which ties lm_head to the embeddings: lm_head.weight differs "
            "from them; set tie_word_embeddings (tie_embeddings) to false"
        )
    fill(lm, source, str, dtype, device)
    lm.tie_weights()
    return lm
