"""The causal LM of a Stack in plain torch: what mamba_ssm builds of it, under transformers' names.

Where a network is within transformers' means, its sites are those of transformers' own model, bit for bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.mamba2.modeling_mamba2 import Mamba2RMSNorm

from sweep.models.attention import Attention
from sweep.models.mamba2 import Mamba2
from sweep.models.stack import Stack


class LM(nn.Module):
    """The backbone, and the head that may share the embeddings' weights."""

    def __init__(self, config: Stack) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.lm_head = nn.Linear(config.settings["d_model"], config.settings["vocab_size"], bias=False)
        self.tie_weights()

    def tie_weights(self) -> None:
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.backbone.embeddings.weight


class Backbone(nn.Module):
    def __init__(self, config: Stack) -> None:
        super().__init__()
        words = config.settings
        self.embeddings = nn.Embedding(words["vocab_size"], words["d_model"])
        self.layers = nn.ModuleList([Block(config, layer) for layer in range(config.num_hidden_layers)])
        self.norm_f = norm(words)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids [batch, seq] to what enters lm_head, [batch, seq, d_model]."""
        hidden: Tensor = self.embeddings(ids)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.leave(hidden)

    def leave(self, hidden: Tensor) -> Tensor:
        """The final norm: from the output of the last block, float32 or not, to the input of lm_head."""
        return self.norm_f(hidden.to(self.norm_f.weight.dtype))  # type: ignore[no-any-return]


class Block(nn.Module):
    """norm → mixer or attention → add, and where there is one, norm2 → mlp → add."""

    def __init__(self, config: Stack, layer: int) -> None:
        super().__init__()
        words = config.settings
        self.residual_in_fp32 = words["residual_in_fp32"]
        self.norm = norm(words)
        self.mixer = _mixer(config, layer)
        if words["d_intermediate"]:
            self.norm2 = norm(words)
            self.mlp = GatedMLP(words["d_model"], words["d_intermediate"])

    def forward(self, hidden: Tensor) -> Tensor:
        """[batch, seq, d_model] to the same, float32 if the residual is."""
        hidden = self._add(hidden, self.norm, self.mixer)
        return self._add(hidden, self.norm2, self.mlp) if hasattr(self, "mlp") else hidden

    def _add(self, residual: Tensor, norm: Any, branch: nn.Module) -> Tensor:
        entered = norm(residual.to(norm.weight.dtype))
        residual = residual.float() if self.residual_in_fp32 else residual
        return residual + branch(entered)  # type: ignore[no-any-return]


class GatedMLP(nn.Module):
    """mamba_ssm/modules/mlp.py: the hidden features are rounded up to a multiple of 128."""

    def __init__(self, d_model: int, hidden: int) -> None:
        super().__init__()
        hidden = -(-hidden // 128) * 128
        self.fc1 = nn.Linear(d_model, 2 * hidden, bias=False)
        self.fc2 = nn.Linear(hidden, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        up, gate = self.fc1(x).chunk(2, -1)
        return self.fc2(up * F.silu(gate))  # type: ignore[no-any-return]


def norm(words: dict[str, Any]) -> Any:
    return (Mamba2RMSNorm if words["rms_norm"] else nn.LayerNorm)(words["d_model"], eps=1e-5)


def _mixer(config: Stack, layer: int) -> Any:
    words = config.settings
    if layer in words["attn_layer_idx"]:
        return Attention(words["d_model"], words["attn_cfg"])
    if words["ssm_cfg"]["layer"] == "Mamba2":
        return Mamba2(words["d_model"], words["ssm_cfg"], layer)
    from transformers.models.mamba.modeling_mamba import MambaMixer

    return MambaMixer(config.common, layer, initialize_mixer_weights=False)


def build(config: Stack) -> LM:
    """Without memory for its weights."""
    with torch.device("meta"):
        return LM(config).eval().requires_grad_(False)
