"""The scan of Mamba-1 for a CPU: token by token, as the recurrence says, but in the order of the memory.

h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t,   y_t = C_t h_t + D x_t   (Gu & Dao 2023, arXiv 2312.00752, section 3)

Same results as transformers' `mamba_selective_scan` to float32 rounding, and the same signature, so that it can
take its place. That one lays out all decays and all inputs of the states, [channels, seq, state], and then
gathers one token after the other across them. Here time comes first, channels last, and only as many tokens at
once as the cache holds; a step is one fused multiply-add, and what the states are read with is one product for
all tokens of a block. Nothing is reassociated, hence no long products of decays that could underflow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 1 << 19  # elements of the states computed together: two arrays of 2 MB


def selective_scan(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **_: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """y silu(z), float32 [batch, channels, seq], and the last state, [batch, channels, state], if asked for.

    hidden_states, dt, z [batch, channels, seq]; A [channels, state]; B, C [batch, state, seq]; D, delta_bias
    [channels]."""
    batch, channels, length = hidden_states.shape
    if delta_bias is not None:
        dt = dt + delta_bias.to(dt.dtype)[..., None]
    if delta_softplus:
        dt = F.softplus(dt)
    x, dt, B, C = (t.permute(2, 0, 1).float().contiguous() for t in (hidden_states, dt, B, C))  # [t, b, …]
    entering, A = dt * x, A.float().mT.contiguous()  # [t, b, d], [n, d]

    y = torch.empty_like(x)
    state = x.new_zeros(batch, A.shape[0], channels)
    steps = max(1, BLOCK // state.numel())
    decays, states = x.new_empty(2, min(steps, length), *state.shape)
    for start in range(0, length, steps):
        part = slice(start, min(start + steps, length))
        number = part.stop - part.start
        torch.mul(dt[part, :, None], A, out=decays[:number]).exp_()
        torch.mul(entering[part, :, None], B[part, :, :, None], out=states[:number])
        for decay, after in zip(decays[:number].unbind(), states[:number].unbind(), strict=True):
            state = torch.addcmul(after, decay, state, out=after)
        state = state.clone()  # the block's memory is used again
        y[part] = (C[part, :, None] @ states[:number])[:, :, 0]
    if D is not None:
        y.addcmul_(x, D.float())
    if z is not None:
        y.mul_(F.silu(z).permute(2, 0, 1))
    y = y.permute(1, 2, 0)
    return (y, state.mT) if return_last_state else y
