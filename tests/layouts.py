"""Writes one network in every layout that checkpoints come in."""

from __future__ import annotations

import json
import sys
import types
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sweep.models import assemble, stack
from sweep.models.mamba_ssm_config import to_transformers
from sweep.models.random_weights import RandomWeights

MAMBA1: dict[str, Any] = {
    "d_model": 64,
    "n_layer": 2,
    "vocab_size": 97,
    "ssm_cfg": {"layer": "Mamba1", "d_state": 8},
    "attn_layer_idx": [],
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 8,
}
MAMBA2: dict[str, Any] = MAMBA1 | {
    "ssm_cfg": {"layer": "Mamba2", "d_state": 16, "headdim": 16, "ngroups": 2},
    "pad_vocab_size_multiple": 16,
    "tie_embeddings": True,
}
# Beyond transformers' own models, one thing at a time and all at once.
ATTENTION: dict[str, Any] = {"attn_layer_idx": [1], "attn_cfg": {"num_heads": 4, "head_dim": 24, "causal": True}}
ROTARY = ATTENTION["attn_cfg"] | {"rotary_emb_dim": 16, "d_conv": 4, "qkv_proj_bias": False, "out_proj_bias": False}


def _mamba2(**ssm: Any) -> dict[str, Any]:
    return MAMBA2 | {"ssm_cfg": MAMBA2["ssm_cfg"] | ssm}


STACKS: dict[str, dict[str, Any]] = {
    "attention": MAMBA2 | ATTENTION | {"n_layer": 3},
    "mamba2attn": MAMBA2 | ATTENTION | {"n_layer": 3, "attn_cfg": ROTARY},
    "first layer attention, few keys, parallel mlp": MAMBA2
    | {"attn_layer_idx": [0], "n_layer": 3}
    | {"attn_cfg": {"num_heads": 4, "num_heads_kv": 2, "mlp_dim": 200, "rotary_emb_dim": 8}}
    | {"d_intermediate": 100},
    "interleaved": MAMBA2 | ATTENTION | {"n_layer": 2, "attn_cfg": ROTARY | {"rotary_emb_interleaved": True}},
    "mamba1 with all around": MAMBA1 | ATTENTION | {"n_layer": 3, "d_intermediate": 200, "rms_norm": False},
    "mlps": MAMBA2 | {"d_intermediate": 200},
    "layer norm": MAMBA2 | {"rms_norm": False},
    "no norm": _mamba2(rmsnorm=False),
    "D of every channel": _mamba2(D_has_hdim=True),
    "norm before gate": _mamba2(norm_before_gate=True),
    "inner mlp": _mamba2(d_ssm=96),
    "all": _mamba2(rmsnorm=False, D_has_hdim=True, d_ssm=32, bias=True)
    | ATTENTION
    | {"n_layer": 3, "d_intermediate": 100, "rms_norm": False, "residual_in_fp32": False},
}
UNTIED = MAMBA2 | {"tie_embeddings": False, "vocab_size": 112}

State = dict[str, Tensor]


def network(settings: dict[str, Any], seed: int = 0) -> Any:
    """A model of random float32 weights."""
    config = stack.shape(settings)
    source = RandomWeights(seed, assemble.shapes(assemble.skeleton(config, "cpu")))
    return assemble.network(config, source, torch.float32, "cpu")


def tensors(lm: Any, dtype: torch.dtype = torch.float32) -> State:
    """Its weights under transformers' names, tied ones once."""
    return {name: p.detach().to(dtype).clone() for name, p in lm.named_parameters()}


def _sharded(path: Path, state: State, stem: str, suffix: str, save: Callable[[State, Path], object]) -> None:
    names = sorted(state)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    index = {}
    for number, half in enumerate(halves, start=1):
        file = f"{stem}-{number:05}-of-00002.{suffix}"
        save({name: state[name] for name in half}, path / file)
        index |= dict.fromkeys(half, file)
    (path / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def transformers_safetensors(path: Path, settings: dict[str, Any], state: State) -> None:
    (path / "config.json").write_text(to_transformers(settings).to_json_string())
    save_file(state, path / "model.safetensors", {"format": "pt"})


def transformers_shards(path: Path, settings: dict[str, Any], state: State) -> None:
    (path / "config.json").write_text(to_transformers(settings).to_json_string())
    _sharded(path, state, "model", "safetensors", lambda part, file: save_file(part, file, {"format": "pt"}))


def transformers_bin_shards(path: Path, settings: dict[str, Any], state: State) -> None:
    (path / "config.json").write_text(to_transformers(settings).to_json_string())
    _sharded(path, state, "pytorch_model", "bin", torch.save)


def _mamba_ssm_names(state: State, tied: bool) -> State:
    named = {name.replace("backbone.embeddings.", "backbone.embedding."): value for name, value in state.items()}
    if tied:
        named["lm_head.weight"] = named["backbone.embedding.weight"]  # the same storage, as tied weights are saved
    return named


def mamba_ssm_bin(path: Path, settings: dict[str, Any], state: State) -> None:
    (path / "config.json").write_text(json.dumps(settings))
    torch.save(_mamba_ssm_names(state, settings.get("tie_embeddings", True)), path / "pytorch_model.bin")


def mamba_ssm_old_bin(path: Path, settings: dict[str, Any], state: State) -> None:
    (path / "config.json").write_text(json.dumps(settings))
    named = _mamba_ssm_names(state, settings.get("tie_embeddings", True))
    torch.save(named, path / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def mamba_ssm_safetensors(path: Path, settings: dict[str, Any], state: State) -> None:
    (path / "config.json").write_text(json.dumps(settings))
    save_file(_mamba_ssm_names(state, tied=False), path / "model.safetensors")


def megatron(path: Path, settings: dict[str, Any], state: State) -> None:
    """As Megatron-LM saves it: tensors beside its arguments, which are instances of its own classes."""
    outer = {"embeddings": "embedding.word_embeddings", "norm_f": "decoder.final_norm"}
    named: dict[str, Any] = {}
    for name, value in state.items():
        for ours, theirs in outer.items():
            name = name.replace(f"backbone.{ours}.", f"{theirs}.")
        name = name.replace("lm_head.", "output_layer.").replace("backbone.layers.", "decoder.layers.")
        named[name] = value
    named["decoder.layers.0.mixer.in_proj._extra_state"] = None
    foreign = types.ModuleType("megatron_of_the_tests")
    foreign.Kind = type("Kind", (), {"__module__": foreign.__name__})  # type: ignore[attr-defined]
    sys.modules[foreign.__name__] = foreign
    ssm = settings["ssm_cfg"]
    arguments = Namespace(
        hidden_size=settings["d_model"],
        num_layers=settings["n_layer"],
        untie_embeddings_and_output_weights=True,
        mamba_state_dim=ssm["d_state"],
        mamba_head_dim=ssm["headdim"],
        mamba_num_groups=ssm["ngroups"],
        kind=foreign.Kind(),  # type: ignore[attr-defined]
    )
    file = path / "release/mp_rank_00/model_optim_rng.pt"
    file.parent.mkdir(parents=True)
    (path / "latest_checkpointed_iteration.txt").write_text("release")
    torch.save({"args": arguments, "checkpoint_version": 3.0, "iteration": 1, "model": named}, file)
    del sys.modules[foreign.__name__]


Write = Callable[[Path, dict[str, Any], State], None]
LAYOUTS: list[Write] = [
    transformers_safetensors,
    transformers_shards,
    transformers_bin_shards,
    mamba_ssm_bin,
    mamba_ssm_old_bin,
    mamba_ssm_safetensors,
]
