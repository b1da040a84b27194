"""The names under which trainers save a network's tensors, and transformers' names for them."""

from __future__ import annotations

import re

# What wrappers of a network put before its names (DDP, DeepSpeed, Lightning's modules) or between their parts
# (torch.compile, FSDP, activation checkpointing).
_BETWEEN = re.compile(r"(^|\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)(?=\.)")
_BEFORE = ("module.", "model.", "net.", "network.", "lm.")
_HEADS = ("backbone.", "lm_head.", "decoder.", "output_layer.")
_BARE = ("embedding.", "embeddings.", "layers.", "norm_f.")  # of a backbone that was saved alone

_TO_TRANSFORMERS = (  # patterns of mamba_ssm's and Megatron's names
    (r"^embedding\.word_embeddings\.", "backbone.embeddings."),
    (r"^decoder\.layers\.(\d+)\.mixer\.in_proj\.layer_norm_weight$", r"backbone.layers.\1.norm.weight"),
    (r"^decoder\.layers\.", "backbone.layers."),
    (r"^decoder\.(final_norm|final_layernorm)\.", "backbone.norm_f."),
    (r"^output_layer\.", "lm_head."),
    (r"\.conv1d_(weight|bias)$", r".conv1d.\1"),  # Megatron since 2025: parameters of the mixer itself
)


def transformers_name(name: str, stack: bool) -> str:
    """transformers' name of a tensor.

    stack: whether the network is a stack of Mamba blocks, whose base is `backbone`; of hybrids, whose base mostly is
    `model`, only wrappers are taken off."""
    name = _BETWEEN.sub(r"\1", name).replace("..", ".").removeprefix(".")
    while (wrapper := next((w for w in _BEFORE if name.startswith(w)), None)) and _wraps(
        name.removeprefix(wrapper), wrapper, stack
    ):
        name = name.removeprefix(wrapper)
    for pattern, replacement in _TO_TRANSFORMERS:
        name = re.sub(pattern, replacement, name)
    if stack and name.startswith(_BARE):
        name = "backbone." + name
    return re.sub(r"^backbone\.embedding\.", "backbone.embeddings.", name)


def _wraps(rest: str, wrapper: str, stack: bool) -> bool:
    """True if the prefix before `rest` is a wrapper's, and not the network's own base."""
    if rest.startswith((*_BEFORE, *_HEADS, "embedding.word_embeddings.")):
        return True
    return rest.startswith(_BARE) if stack else wrapper == "module."
