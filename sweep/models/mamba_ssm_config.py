"""A network's shape in the words of mamba_ssm's config.json and in those of a transformers configuration."""

from __future__ import annotations

import math
from typing import Any

from sweep.core.errors import UsageError

# What mamba_ssm's classes take for granted (mamba_ssm/modules/mamba_simple.py, mamba2.py) and may be set in ssm_cfg.
_MAMBA1: dict[str, Any] = {"d_state": 16, "d_conv": 4, "expand": 2, "dt_rank": "auto", "conv_bias": True, "bias": False}
_MAMBA2: dict[str, Any] = {
    "d_state": 128,
    "d_conv": 4,
    "expand": 2,
    "headdim": 64,
    "ngroups": 1,
    "dt_limit": (0.0, math.inf),
    "conv_bias": True,
    "bias": False,
    "chunk_size": 256,
}
# Settings that the transformers models do not have, with the only value they can stand for.
_FIXED: dict[str, dict[str, Any]] = {
    "": {"attn_layer_idx": [], "d_intermediate": 0, "rms_norm": True},
    "ssm_cfg.": {"d_ssm": None, "D_has_hdim": False, "rmsnorm": True, "norm_before_gate": False},
}
# How a network is initialised or run, not what it computes.
_IMMATERIAL = {"layer", "conv_init", "A_init_range", "use_mem_eff_path", "use_fast_path"} | {
    f"dt_{name}" for name in ("min", "max", "init", "scale", "init_floor")
}


def to_transformers(settings: dict[str, Any]) -> Any:
    """The transformers configuration of a network that mamba_ssm's config.json describes.

    settings: d_model and n_layer; optional vocab_size (50277), pad_vocab_size_multiple (8), tie_embeddings
    (true), residual_in_fp32 (true) and ssm_cfg, whose `layer` is Mamba1 (default) or Mamba2.
    Raises UsageError for what transformers cannot express."""
    import transformers

    ssm = dict(settings.get("ssm_cfg") or {})
    layer = ssm.get("layer", "Mamba1")
    if layer not in ("Mamba1", "Mamba2"):
        raise UsageError(f"ssm_cfg.layer={layer} is not supported; allowed: Mamba1, Mamba2")
    known = _MAMBA1 if layer == "Mamba1" else _MAMBA2
    for prefix, fixed in _FIXED.items():
        for key, only in fixed.items():
            value = (ssm if prefix else settings).get(key, only)
            if value != only:
                raise UsageError(
                    f"config.json: {prefix}{key}={value} is not supported by the transformers back end; allowed: {only}"
                )
    if unknown := set(ssm) - set(known) - set(_FIXED["ssm_cfg."]) - _IMMATERIAL:
        raise UsageError(f"config.json: unknown ssm_cfg settings: {', '.join(sorted(unknown))}")
    if missing := {"d_model", "n_layer"} - set(settings):
        raise UsageError(f"config.json lacks {', '.join(sorted(missing))}")
    ssm = known | ssm
    multiple = settings.get("pad_vocab_size_multiple", 8)
    common = {
        "vocab_size": -(-settings.get("vocab_size", 50277) // multiple) * multiple,
        "hidden_size": settings["d_model"],
        "num_hidden_layers": settings["n_layer"],
        "state_size": ssm["d_state"],
        "conv_kernel": ssm["d_conv"],
        "expand": ssm["expand"],
        "use_bias": ssm["bias"],
        "use_conv_bias": ssm["conv_bias"],
        "residual_in_fp32": settings.get("residual_in_fp32", True),
        "tie_word_embeddings": settings.get("tie_embeddings", True),
        "layer_norm_epsilon": 1e-5,
        # the defaults are token ids of a larger vocabulary, which some versions check
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    try:
        if layer == "Mamba1":
            return transformers.MambaConfig(**common, time_step_rank=ssm["dt_rank"])
        return transformers.Mamba2Config(
            **common,
            head_dim=ssm["headdim"],
            num_heads=settings["d_model"] * ssm["expand"] // ssm["headdim"],
            n_groups=ssm["ngroups"],
            chunk_size=ssm["chunk_size"],
            time_step_limit=tuple(ssm["dt_limit"]),
        )
    except Exception as error:  # transformers validates, with errors of its own
        raise UsageError(f"config.json: inconsistent geometry: {' '.join(str(error).split())}") from error


def to_mamba_ssm(config: Any) -> dict[str, Any]:
    """What mamba_ssm's config.json would say of a transformers MambaConfig or Mamba2Config."""
    ssm = {
        "d_state": config.state_size,
        "d_conv": config.conv_kernel,
        "expand": config.expand,
        "bias": config.use_bias,
        "conv_bias": config.use_conv_bias,
    }
    if config.model_type == "mamba":
        ssm |= {"layer": "Mamba1", "dt_rank": config.time_step_rank}
    else:
        ssm |= {
            "layer": "Mamba2",
            "headdim": config.head_dim,
            "ngroups": config.n_groups,
            "chunk_size": config.chunk_size,
            "dt_limit": tuple(config.time_step_limit),
        }
    return {
        "d_model": config.hidden_size,
        "n_layer": config.num_hidden_layers,
        "vocab_size": config.vocab_size,
        "pad_vocab_size_multiple": 1,
        "residual_in_fp32": config.residual_in_fp32,
        "tie_embeddings": config.tie_word_embeddings,
        "ssm_cfg": ssm,
    }
