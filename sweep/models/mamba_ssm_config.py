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
# What config.json says beside ssm_cfg, and what is read of it.
_TOP = {"d_model", "n_layer", "vocab_size", "pad_vocab_size_multiple", "tie_embeddings", "residual_in_fp32", "ssm_cfg"}
# Not mamba_ssm's own, which has 1e-5 fixed in its code, but what its forks and other libraries call the same.
_EPSILON = ("norm_epsilon", "norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "layer_norm_eps", "rms_norm_eps")
# Settings that the transformers models do not have, with the only value they can stand for.
_FIXED: dict[str, dict[str, Any]] = {
    "": {"attn_layer_idx": [], "d_intermediate": 0, "rms_norm": True},
    "ssm_cfg.": {"D_has_hdim": False, "rmsnorm": True, "norm_before_gate": False},
}
# How a network is initialised, trained or run, not what it computes.
_IMMATERIAL = {"layer", "conv_init", "A_init_range", "use_mem_eff_path", "use_fast_path", "process_group"} | {
    *("sequence_parallel", "layer_idx", "device", "dtype", "d_ssm"),  # d_ssm is looked at by itself
    *(f"dt_{name}" for name in ("min", "max", "init", "scale", "init_floor")),
}
_IMMATERIAL_TOP = {"attn_cfg", "fused_add_norm", "architectures", "torch_dtype", "dtype", "transformers_version"} | {
    *("bos_token_id", "eos_token_id", "pad_token_id", "initializer_cfg", "use_cache", "max_position_embeddings"),
    *("initializer_range", "_name_or_path", "auto_map", "model_max_length", "max_seq_len", "seq_len"),
}


def to_transformers(settings: dict[str, Any]) -> Any:
    """The transformers configuration of a network that mamba_ssm's config.json describes.

    settings: d_model and n_layer; optional vocab_size (50277), pad_vocab_size_multiple (8), tie_embeddings
    (true), residual_in_fp32 (true), norm_epsilon (1e-5) and ssm_cfg, whose `layer` is Mamba1 (default) or Mamba2.
    Raises UsageError for what transformers cannot express, and for what nothing here reads."""
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
    if strangers := sorted(set(settings) - _TOP - set(_FIXED[""]) - _IMMATERIAL_TOP - set(_EPSILON)):
        raise UsageError(
            f"config.json: {', '.join(f'{key}={settings[key]}' for key in strangers[:3])}: unknown in mamba_ssm's "
            "layout, and it may change activations; remove it from config.json if it does not"
        )
    if missing := {"d_model", "n_layer"} - set(settings):
        raise UsageError(f"config.json lacks {', '.join(sorted(missing))}")
    ssm = known | ssm
    d_inner = int(ssm["expand"] * settings["d_model"])  # as mamba_ssm computes it: expand may be 1.5
    if layer == "Mamba2" and ssm.get("d_ssm") not in (None, d_inner):
        raise UsageError(
            f"config.json: ssm_cfg.d_ssm={ssm['d_ssm']} is not supported by the transformers back end; allowed: "
            f"{d_inner}, which is expand x d_model"
        )
    multiple = settings.get("pad_vocab_size_multiple", 8)
    common = {
        "vocab_size": -(-settings.get("vocab_size", 50277) // multiple) * multiple,
        "hidden_size": settings["d_model"],
        "num_hidden_layers": settings["n_layer"],
        "state_size": ssm["d_state"],
        "conv_kernel": ssm["d_conv"],
        "use_bias": ssm["bias"],
        "use_conv_bias": ssm["conv_bias"],
        "residual_in_fp32": settings.get("residual_in_fp32", True),
        "tie_word_embeddings": settings.get("tie_embeddings", True),
        "layer_norm_epsilon": _epsilon(settings, layer),
        # the defaults are token ids of a larger vocabulary, which some versions check
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    whole = int(ssm["expand"]) if ssm["expand"] == int(ssm["expand"]) else 0
    common["expand"] = whole or 1
    try:
        if layer == "Mamba1":
            config = transformers.MambaConfig(**common, time_step_rank=ssm["dt_rank"])
            config.intermediate_size = d_inner
        else:
            heads = d_inner // ssm["headdim"]
            if heads * ssm["headdim"] != d_inner:
                raise UsageError(
                    f"config.json: inconsistent geometry: expand x d_model = {d_inner} is no multiple of "
                    f"headdim={ssm['headdim']}"
                )
            config = transformers.Mamba2Config(
                **common,
                head_dim=ssm["headdim"] if whole else settings["d_model"],
                num_heads=heads if whole else 1,
                n_groups=ssm["ngroups"],
                chunk_size=ssm["chunk_size"],
                time_step_limit=tuple(ssm["dt_limit"]),
            )
            vars(config).update(head_dim=ssm["headdim"], num_heads=heads)
        # transformers' classes declare whole numbers, but its networks compute with any
        vars(config)["expand"] = ssm["expand"]
        return config
    except UsageError:
        raise
    except Exception as error:  # transformers validates, with errors of its own
        raise UsageError(f"config.json: inconsistent geometry: {' '.join(str(error).split())}") from error


def _epsilon(settings: dict[str, Any], layer: str) -> float:
    """Epsilon added to the mean square in norms. mamba_ssm's and Megatron's gated norm of Mamba-2 has 1e-5 whatever
    that of the blocks is, and transformers has one number for both."""
    said = {key: float(settings[key]) for key in _EPSILON if settings.get(key) is not None}
    if len(set(said.values())) > 1:
        raise UsageError(f"config.json: {' and '.join(f'{k}={v}' for k, v in said.items())} contradict each other")
    key, value = next(iter(said.items()), ("", 1e-5))
    if layer == "Mamba2" and value != 1e-5:
        raise UsageError(
            f"config.json: {key}={value} is not supported: in this layout the gated norm of Mamba-2 keeps 1e-05, and "
            "the back ends have one number for both; allowed: 1e-05"
        )
    return value


def to_mamba_ssm(config: Any) -> dict[str, Any]:
    """Settings of mamba_ssm's config.json for a transformers MambaConfig or Mamba2Config."""
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
