"""The attention between Mamba layers in mamba_ssm's networks, in plain torch (mamba_ssm/modules/mha.py)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sweep.models.kernels.conv import convolve


class Attention(nn.Module):
    """settings: mamba_ssm's attn_cfg, no default left out.

    in_proj gives [q, k, v, up, gate]: queries, keys and values pass a causal convolution where d_conv > 0, and
    up x silu(gate), where mlp_dim > 0, enters out_proj behind the heads."""

    def __init__(self, d_model: int, settings: dict[str, Any]) -> None:
        super().__init__()
        self.settings = settings
        heads, keys, width = settings["num_heads"], settings["num_heads_kv"], settings["head_dim"]
        mlp = math.ceil(settings["mlp_dim"] / 256) * 256
        self.widths = (heads * width, keys * width, keys * width)
        channels = sum(self.widths)
        self.in_proj = nn.Linear(d_model, channels + mlp, bias=settings["qkv_proj_bias"])
        if settings["d_conv"]:
            self.conv1d = nn.Conv1d(channels, channels, settings["d_conv"], groups=channels)
        self.out_proj = nn.Linear(heads * width + mlp // 2, d_model, bias=settings["out_proj_bias"])

    def forward(self, hidden: Tensor) -> Tensor:
        """[batch, seq, d_model] to the same."""
        own = self.settings
        channels = sum(self.widths)
        qkv, mlp = self.in_proj(hidden).split([channels, self.in_proj.out_features - channels], -1)
        if own["d_conv"]:
            qkv, _ = convolve(qkv, self.conv1d.weight, self.conv1d.bias)
        q, k, v = (t.unflatten(-1, (-1, own["head_dim"])).transpose(1, 2) for t in qkv.split(self.widths, -1))
        if own["rotary_emb_dim"]:
            q, k = (
                rotate(t, own["rotary_emb_dim"], own["rotary_emb_base"], own["rotary_emb_interleaved"]) for t in (q, k)
            )
        k, v = (t.repeat_interleave(own["num_heads"] // own["num_heads_kv"], 1) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=own["causal"], scale=own["softmax_scale"])
        up, gate = mlp.chunk(2, -1)
        return self.out_proj(torch.cat([y.transpose(1, 2).flatten(2), up * F.silu(gate)], -1))  # type: ignore[no-any-return]


def rotate(x: Tensor, width: int, base: float, interleaved: bool) -> Tensor:
    """The first `width` channels of each head of x, [batch, heads, seq, head_dim], turned by their position.

    Su et al. 2021, arXiv 2104.09864, section 3.4.2; pairs are halves or, interleaved, neighbours. As flash_attn's
    kernel does it: sines and cosines of x's dtype, products in float32."""
    frequencies = 1 / base ** (torch.arange(0, width, 2, dtype=torch.float32, device=x.device) / width)
    angles = torch.outer(torch.arange(x.shape[2], dtype=torch.float32, device=x.device), frequencies)
    cos, sin = (t.to(x.dtype).float() for t in (angles.cos(), angles.sin()))
    turned, rest = torch.split_with_sizes(x, [width, x.shape[-1] - width], -1)
    pairs = turned.float().reshape(*turned.shape[:-1], *((-1, 2) if interleaved else (2, -1)))
    axis = -1 if interleaved else -2
    a, b = pairs.unbind(axis)
    turned = torch.stack([a * cos - b * sin, a * sin + b * cos], axis).flatten(-2)
    return torch.cat([turned.to(x.dtype), rest], -1)
