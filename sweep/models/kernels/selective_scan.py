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
    if delta_bias is not None:
        dt = dt + delta_bias.to(dt.dtype)[..., None]
    if delta_softplus:
        dt = F.softplus(dt)
    wide = torch.promote_types(hidden_states.dtype, torch.float32)
    x, dt, B, C = (t.permute(2, 0, 1).to(wide).contiguous() for t in (hidden_states, dt, B, C))  # [t, b, …]
    y, state = _Scan.apply(x, dt, A.to(wide).mT.contiguous(), B, C)  # type: ignore[no-untyped-call]
    if D is not None:
        y = torch.addcmul(y, x, D.to(wide))
    if z is not None:
        y = y * F.silu(z).permute(2, 0, 1)
    y = y.permute(1, 2, 0)
    return (y, state.mT) if return_last_state else y


class _Scan(torch.autograd.Function):
    """y [t, b, d] and the last state [b, n, d] from x, dt [t, b, d]; A [n, d]; B, C [t, b, n]. A gets no gradient, nor
    does the last state hand one on.

    Backward runs the recurrence from the end: with s_t the gradient by h_t, s_t = C_t dy_t + exp(dt_{t+1} A) s_{t+1}.
    The states of a block of tokens are computed again from the one before it, which is all that is kept of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        y, before = torch.empty_like(x), []
        state = x.new_zeros(x.shape[1], *A.shape)
        steps = max(1, BLOCK // state.numel())
        decays, states = x.new_empty(2, min(steps, len(x)), *state.shape)
        for part in _blocks(len(x), steps):
            before.append(state)
            number = part.stop - part.start
            state = _states(x[part], dt[part], A, B[part], state, decays[:number], states[:number])
            state = state.clone()  # the block's memory is used again
            y[part] = (C[part, :, None] @ states[:number])[:, :, 0]
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x, dt, A, B, C, *before)
        ctx.mark_non_differentiable(state)
        return y, state

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, *before = ctx.saved_tensors
        dy = dy.contiguous()
        dx, ddt, dB, dC = (torch.empty_like(t) for t in (x, dt, B, C))
        steps = max(1, BLOCK // before[0].numel())
        decays, states, along = x.new_empty(3, min(steps, len(x)), *before[0].shape)
        later: Tensor | None = None  # exp(dt A) s of the first token of the block behind
        for part, first in reversed(list(zip(_blocks(len(x), steps), before, strict=True))):
            number = part.stop - part.start
            decay, state, grad = decays[:number], states[:number], along[:number]
            _states(x[part], dt[part], A, B[part], first, decay, state)
            torch.matmul(state, dy[part, :, :, None], out=dC[part, ..., None])
            torch.mul(dy[part, :, None], C[part, :, :, None], out=grad)  # s, token by token from the end
            for t in range(number - 1, -1, -1):
                if t < number - 1:
                    torch.addcmul(grad[t], decay[t + 1], grad[t + 1], out=grad[t])
                elif later is not None:
                    grad[t] += later
            later = decay[0] * grad[0]
            torch.matmul(grad, (dt[part] * x[part])[..., None], out=dB[part, ..., None])
            entering = (B[part, :, None] @ grad)[:, :, 0]  # the gradient by dt x
            torch.mul(entering, dt[part], out=dx[part])
            decay.mul_(grad).mul_(A)  # the gradient by dt through the decay, but for the state before
            through = decay[0].mul(first).sum(-2)[None]
            through = torch.cat([through, decay[1:].mul_(state[:-1]).sum(-2)])
            torch.addcmul(through, entering, x[part], out=ddt[part])
        return dx, ddt, None, dB, dC


def _blocks(length: int, steps: int) -> list[slice]:
    return [slice(start, min(start + steps, length)) for start in range(0, length, steps)]


def _states(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, state: Tensor, decays: Tensor, states: Tensor) -> Tensor:
    """Writes exp(dt A) and the states after each token of a block, [t, b, n, d]; returns the last of them."""
    torch.mul(dt[:, :, None], A, out=decays).exp_()
    torch.mul((dt * x)[:, :, None], B[..., None], out=states)
    for decay, after in zip(decays.unbind(), states.unbind(), strict=True):
        state = torch.addcmul(after, decay, state, out=after)
    return state
