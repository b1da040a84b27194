"""A tiny random network of every Mamba family of transformers, hybrids included."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

VOCABULARY = 96


@dataclass(frozen=True)
class Family:
    """settings of the config; layers: numbers of the decoder layers that hold a Mamba mixer."""

    name: str
    settings: dict[str, Any] = field(repr=False)
    layers: tuple[int, ...]
    kind: str = "mamba2"

    def build(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
        settings = transformers.AutoConfig.for_model(self.name, vocab_size=VOCABULARY, **self.settings)
        torch.manual_seed(seed)
        lm = transformers.AutoModelForCausalLM.from_config(settings)
        for name, parameter in lm.named_parameters():  # some families start at zero, where nothing shows
            if name.endswith(("conv1d.weight", "conv1d.bias", "in_proj.weight", "x_proj_weight")):
                torch.nn.init.normal_(parameter, std=0.3)
        return lm.to(dtype).eval().requires_grad_(False)


_ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
_MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_d_state": 8, "mamba_chunk_size": 8}
_PADDING = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

FAMILIES = [
    Family("mamba", {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 4}, (0, 1, 2), "mamba1"),
    Family("falcon_mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, (0, 1), "mamba1"),
    Family(
        "mamba2",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 8, "n_groups": 2, "state_size": 8}
        | {"chunk_size": 8},
        (0, 1),
    ),
    Family(
        "jamba",
        _ATTENTION
        | _PADDING
        | {"hidden_size": 32, "num_hidden_layers": 4, "attn_layer_period": 3, "attn_layer_offset": 1}
        | {"expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 2, "num_experts_per_tok": 1}
        | {"mamba_d_state": 4, "mamba_dt_rank": 4},
        (0, 2, 3),
        "mamba1",
    ),
    Family(
        "zamba",
        _PADDING
        | {"hidden_size": 32, "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1}
        | {"layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "num_attention_heads": 4}
        | {"num_key_value_heads": 4, "attention_head_dim": 16, "intermediate_size": 48, "n_mamba_heads": 2}
        | {"mamba_d_state": 4, "mamba_dt_rank": 4},
        (0, 1, 2, 3),
        "mamba1",
    ),
    Family(
        "zamba2",
        _PADDING
        | {"hidden_size": 32, "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]}
        | {"num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 48, "n_mamba_heads": 8}
        | {"mamba_headdim": 8, "mamba_ngroups": 2, "mamba_d_state": 8, "chunk_size": 8, "num_mem_blocks": 1}
        | {"use_shared_attention_adapter": False, "adapter_rank": 4},
        (0, 1, 2, 3),
    ),
    Family(
        "bamba",
        _ATTENTION | _MAMBA2 | _PADDING | {"hidden_size": 32, "num_hidden_layers": 3, "attn_layer_indices": [1]},
        (0, 2),
    ),
    Family(
        "falcon_h1",
        _ATTENTION
        | _MAMBA2
        | _PADDING
        | {"hidden_size": 32, "num_hidden_layers": 2, "head_dim": 8, "mamba_d_ssm": 64}
        | {"ssm_in_multiplier": 1.25, "ssm_multipliers": [0.5, 0.75, 0.1768, 1.5, 0.9]},
        (0, 1),
    ),
    Family(
        "nemotron_h",
        _ATTENTION
        | _PADDING
        | {"hidden_size": 32, "layers_block_type": ["mamba", "attention", "mamba", "mlp"]}
        | {"mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 2, "ssm_state_size": 8, "chunk_size": 8}
        | {"head_dim": 8},
        (0, 2),
    ),
    Family(
        "granitemoehybrid",
        _ATTENTION
        | _MAMBA2
        | _PADDING
        | {"hidden_size": 32, "num_hidden_layers": 3, "layer_types": ["mamba", "attention", "mamba"]}
        | {"num_local_experts": 2, "num_experts_per_tok": 1, "shared_intermediate_size": 32},
        (0, 2),
    ),
]
