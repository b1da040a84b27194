"""Megatron's checkpoints of Mamba-2 (github NVIDIA/Megatron-LM, megatron/core/models/mamba)."""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweep.core.errors import UsageError, first_line
from sweep.models import tensors
from sweep.models.weight_files import Read

NAME = "model_optim_rng.pt"
_LATEST = "latest_checkpointed_iteration.txt"
_ONLY: dict[str, tuple[Any, ...]] = {  # arguments that change what is computed, and what is supported
    "norm_epsilon": (1e-5,),  # that of the blocks; the gated norm has 1e-5 fixed in Megatron's code
    "layernorm_epsilon": (1e-5,),
    "normalization": ("RMSNorm",),
    "apply_layernorm_1p": (False,),
    "hybrid_attention_ratio": (0, 0.0),
    "hybrid_mlp_ratio": (0, 0.0),
    "num_experts": (0,),
    "add_bias_linear": (False,),
    "mamba_expand": (2,),
}


def file(names: Sequence[str], read: Read, where: object) -> str | None:
    """Megatron's file of weights, of several iterations the latest; None without one."""
    ranks = [name for name in names if re.search(rf"(^|/)mp_rank_[^/]+/{re.escape(NAME)}$", name)]
    if not ranks:
        return None
    iterations = sorted({name.rsplit("/", 2)[0] if name.count("/") > 1 else "." for name in ranks})
    chosen = iterations[0]
    if len(iterations) > 1 or _LATEST in names:
        said = read(_LATEST).read_text(encoding="utf-8").strip() if _LATEST in names else ""
        if said.isdecimal():
            matching = [i for i in iterations if re.fullmatch(rf"iter_0*{int(said)}", i.rpartition("/")[2])]
        else:
            matching = [i for i in iterations if said and i.rpartition("/")[2] == said]
        if len(matching) != 1 and (len(iterations) > 1 or said):
            reason = f"{_LATEST} says {said[:40]!r}" if said else f"it has no {_LATEST} to say which"
            raise UsageError(
                f"{where} holds {', '.join(iterations)}, and {reason}; give one: model.path={where}/{iterations[-1]}"
            )
        chosen = matching[0] if matching else chosen
    parts = [name for name in ranks if name.startswith("mp_rank_" if chosen == "." else f"{chosen}/mp_rank_")]
    if len(parts) > 1:
        raise UsageError(f"model.path={where}: {len(parts)} parts of a tensor-parallel checkpoint; merge them first")
    return parts[0]


def settings(file: Path) -> dict[str, Any]:
    """The geometry in mamba_ssm's words, from the arguments the checkpoint was trained with.

    What they do not say is Megatron's default for its Mamba-2 (d_state 128, headdim 64, 8 groups)."""
    try:
        saved = tensors.megatron(file)
        arguments = vars(saved["args"])
        rows = len(saved["model"]["embedding.word_embeddings.weight"])
    except (KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
        raise UsageError(f"{file} is no Megatron checkpoint: {first_line(error)}") from error
    for key, only in _ONLY.items():
        if (value := arguments.get(key)) is not None and value not in only:
            raise UsageError(
                f"{file}: {key}={value} among its arguments is not supported; allowed: {' or '.join(map(str, only))}"
            )
    pattern = str(arguments.get("hybrid_override_pattern") or "").replace("|", "")
    if set(pattern) - {"M"}:
        raise UsageError(
            f"{file}: hybrid_override_pattern={pattern} among its arguments has layers other than Mamba (M), which "
            "are not supported in Megatron's layout; convert it to transformers' (nemotron_h)"
        )
    return {
        "d_model": arguments["hidden_size"],
        "n_layer": arguments["num_layers"],
        "vocab_size": rows,
        "pad_vocab_size_multiple": 1,
        "tie_embeddings": not arguments.get("untie_embeddings_and_output_weights", True),
        "ssm_cfg": {
            "layer": "Mamba2",
            "d_state": arguments.get("mamba_state_dim") or 128,
            "headdim": arguments.get("mamba_head_dim") or 64,
            "ngroups": arguments.get("mamba_num_groups") or 8,
        },
    }
