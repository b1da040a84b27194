"""Mamba2 with all that mamba_ssm's class of that name can be set to, in plain torch (mamba_ssm/modules/mamba2.py)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.mamba2.modeling_mamba2 import MambaRMSNormGated

from sweep.models.kernels.conv import convolve
from sweep.models.kernels.ssd import chunk_scan


def causal_conv1d_fn(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, **_: Any
) -> Tensor:
    """The convolution and its SiLU, [batch, channels, seq], weight [channels, kernel]; a function of this module as it
    is one of transformers' modelling files, where others may stand in for it."""
    assert activation == "silu"
    return convolve(x.transpose(1, 2), weight.unsqueeze(1), bias)[1].transpose(1, 2)


class Mamba2(nn.Module):
    """ssm: mamba_ssm's ssm_cfg, no default left out.

    in_proj gives [z0, x0, z, x B C, dt]. Where d_ssm < d_inner, z0 and x0 are a gated MLP of the remaining channels,
    which enters out_proj in front of what the SSM gives."""

    def __init__(self, d_model: int, ssm: dict[str, Any], layer_idx: int) -> None:
        super().__init__()
        d_inner = int(ssm["expand"] * d_model)
        d_ssm = d_inner if ssm["d_ssm"] is None else ssm["d_ssm"]
        self.layer_idx, self.d_state, self.ngroups, self.dt_limit = (
            layer_idx,
            ssm["d_state"],
            ssm["ngroups"],
            ssm["dt_limit"],
        )
        self.norm_before_gate = ssm["norm_before_gate"]
        heads, side = d_ssm // ssm["headdim"], self.ngroups * self.d_state
        self.convolved = (d_ssm, side, side)
        self.projected = (d_inner - d_ssm, d_inner - d_ssm, d_ssm, sum(self.convolved), heads)
        self.in_proj = nn.Linear(d_model, sum(self.projected), bias=ssm["bias"])
        channels = sum(self.convolved)
        self.conv1d = nn.Conv1d(channels, channels, ssm["d_conv"], groups=channels, bias=ssm["conv_bias"])
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.A_log = nn.Parameter(torch.empty(heads))
        self.D = nn.Parameter(torch.empty(d_ssm if ssm["D_has_hdim"] else heads))
        self.norm = MambaRMSNormGated(d_ssm, d_ssm // self.ngroups, eps=1e-5) if ssm["rmsnorm"] else None
        self.out_proj = nn.Linear(d_inner, d_model, bias=ssm["bias"])

    def forward(self, hidden: Tensor) -> Tensor:
        """[batch, seq, d_model] to the same."""
        z0, x0, z, entered, dt = torch.split_with_sizes(self.in_proj(hidden), self.projected, -1)
        weight, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        left = causal_conv1d_fn(entered.transpose(1, 2), weight, bias, activation="silu").transpose(1, 2)
        x, B, C = torch.split_with_sizes(left, self.convolved, -1)
        x = x.reshape(*x.shape[:2], len(self.A_log), -1)  # [batch, seq, heads, headdim]
        B, C = (t.reshape(*t.shape[:2], self.ngroups, -1) for t in (B, C))
        A = -torch.exp(self.A_log.float())
        y = chunk_scan(x, dt, A, B, C, dt_bias=self.dt_bias, dt_softplus=True, dt_limit=self.dt_limit)
        assert isinstance(y, Tensor)
        y = y + self.D.float().view(len(A), -1) * x.float()  # a number for each head, or for each of its channels
        y = self._gated(y.flatten(2), z)
        return self.out_proj(torch.cat([F.silu(z0) * x0, y.to(hidden.dtype)], -1))  # type: ignore[no-any-return]

    def _gated(self, y: Tensor, z: Tensor) -> Tensor:
        """y, float32 [batch, seq, d_ssm], gated by z and, where there is a norm, normed before or after that."""
        if self.norm is None or self.norm_before_gate:
            y = y if self.norm is None else self.norm(y)
            return y * F.silu(z.float())
        return self.norm(y, z)  # type: ignore[no-any-return]
