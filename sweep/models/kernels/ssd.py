"""The scan of Mamba-2 for a CPU: state-space duality as a few large matrix products.

h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t,   y_t = C_t h_t + D x_t   (Dao & Gu 2024, arXiv 2405.21060, section 6)

Same results as transformers' `mamba2_chunk_scan` to float32 rounding, and the same signature, so that it can
take its place. It is faster because B and C are not repeated over heads, so that two of the three products of
a chunk serve all heads of a group at once; because the tokens of one block stay in the cache; and because
what no one asks for (the state before the first token, the one after the last) is not computed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 64  # tokens whose pairs are multiplied out; measured: see bench/forward.py
BLOCK = 8  # chunks computed together; what they need is a few MB at the sizes of Mamba-2


def chunk_scan(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int = CHUNK,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    **_: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """y, float32 [batch, seq, heads, dim], and the last state, float32 [batch, heads, dim, state], if asked for.

    hidden_states [batch, seq, heads, dim]; dt [batch, seq, heads]; A, D, dt_bias [heads]; B, C [batch, seq, groups,
    state]; initial_states [batch, heads, dim, state]. chunk_size is accepted and ignored: it decides nothing but
    speed, and CHUNK was measured.
    """
    batch, length, heads, dim = hidden_states.shape
    groups, size = B.shape[2:]
    if dt_bias is not None:
        dt = dt + dt_bias.to(dt.dtype)
    if dt_softplus:
        dt = F.softplus(dt)
    wide = torch.promote_types(hidden_states.dtype, torch.float32)
    dt = torch.clamp(dt, *dt_limit).to(wide)

    chunk = min(CHUNK, max(length, 1))
    if padding := -length % chunk:  # dt = 0 there: the state stays as it is
        hidden_states, B, C = (F.pad(t, (0, 0, 0, 0, 0, padding)) for t in (hidden_states, B, C))
        dt = F.pad(dt, (0, 0, 0, padding))
    x = hidden_states.to(wide).reshape(batch, -1, chunk, groups, heads // groups, dim)  # [b, c, l, g, h, p]
    B, C = (t.to(wide).reshape(batch, -1, chunk, groups, size) for t in (B, C))  # [b, c, l, g, n]
    dt, A = dt.reshape(x.shape[:5]), A.to(wide)
    if torch.is_grad_enabled() and not return_final_states and initial_states is None:
        y, last = _Scan.apply(x, dt, A, B, C, D), None  # type: ignore[no-untyped-call]
    else:
        y, last = _scan(x, dt, A, B, C, D, initial_states, return_final_states)
    y = y.view(batch, -1, heads, dim)[:, :length]
    return y if last is None else (y, last.permute(0, 1, 3, 4, 2).flatten(1, 2))


def _scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """y, shaped as x [b, c, l, g, h, p], and the last state [b, g, n, h, p], if asked for. dt [b, c, l, g, h]; A, D
    [heads]; B, C [b, c, l, g, n]."""
    batch, chunks, _, groups, _, dim = x.shape
    size = B.shape[-1]
    decays = _Decays(A, dt)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    last = x.new_empty(batch, groups, size, x.shape[4], dim) if return_final_states else None
    for b in range(batch):
        state = None
        if initial_states is not None:
            state = initial_states[b].to(x.dtype).reshape(groups, -1, dim, size).permute(0, 3, 1, 2)  # [g, n, h, p]
        for start in range(0, chunks, BLOCK):
            part = slice(start, min(start + BLOCK, chunks))
            more = return_final_states or part.stop < chunks
            state = _block(x[b, part], B[b, part], C[b, part], decays.of(b, part), D, state, y[b, part], more)
        if last is not None and state is not None:
            last[b] = state
    return y, last


class _Scan(torch.autograd.Function):
    """`_scan` with gradients by x, dt, B and C. Nothing but its arguments is kept: backward computes it again, in
    operations that torch can differentiate, a block of chunks at a time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, dt, A, B, C, D)
        return _scan(x, dt, A, B, C, D)[0]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, D = ctx.saved_tensors
        with torch.enable_grad():
            x, dt, B, C = (t.detach().requires_grad_() for t in (x, dt, B, C))
            dx, ddt, dB, dC = torch.autograd.grad(_differentiable(x, dt, A, B, C, D), (x, dt, B, C), dy)
        return dx, ddt, None, dB, dC, None


def _differentiable(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> Tensor:
    """`_scan`'s y by the same formulas, in place nowhere."""
    _, chunks, length, groups, heads, dim = x.shape
    out = []
    causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
    state: Tensor | None = None  # [b, g, n, h, p]
    for start in range(0, chunks, BLOCK):
        xs, dts, Bs, Cs = (t[:, start : start + BLOCK].transpose(2, 3) for t in (x, dt, B, C))  # [b, c, g, l, …]
        dts = dts.transpose(3, 4)  # [b, c, g, h, l]
        total = (dts.double() * A.double().view(groups, -1, 1)).cumsum(-1)
        between = (total[..., :, None] - total[..., None, :]).to(x.dtype).clamp(max=0).exp()  # [b, c, g, h, l, s]
        scores = (Cs @ Bs.mT).masked_fill(~causal, 0)
        within = scores[:, :, :, None] * between * dts[..., None, :]
        own = (within @ xs.transpose(3, 4)).transpose(3, 4)  # [b, c, g, l, h, p]
        if D is not None:
            own = own + xs * D.to(x.dtype).view(groups, 1, heads, 1)
        to_end = (total[..., -1:] - total).to(x.dtype).exp() * dts
        added = Bs.mT @ (xs * to_end.transpose(3, 4)[..., None]).flatten(4)
        added = added.view(*added.shape[:4], heads, dim)  # [b, c, g, n, h, p]
        over = total[..., -1].to(x.dtype).exp()  # [b, c, g, h]
        from_start = total.to(x.dtype).exp().transpose(3, 4)[..., None]  # [b, c, g, l, h, 1]
        ys = []
        for c in range(xs.shape[1]):
            y = own[:, c]
            if state is not None:
                y = y + (Cs[:, c] @ state.flatten(3)).view(y.shape) * from_start[:, c]
                state = state * over[:, c, :, None, :, None] + added[:, c]
            else:
                state = added[:, c]
            ys.append(y)
        out.append(torch.stack(ys, 1).transpose(2, 3))
    return torch.cat(out, 1)


class _Decays:
    """dt and the running sums of dt A within each chunk, [b, c, g, h, l].

    The sums are kept as two float32 whose sum is good to 48 bits: the difference of two of them, which is an
    exponent, is then as exact as if its own terms had been added up."""

    def __init__(self, A: Tensor, dt: Tensor) -> None:
        groups = dt.shape[3]
        self.dt = dt.permute(0, 1, 3, 4, 2)  # from [b, c, l, g, h]
        total = (self.dt.double() * A.double().view(groups, -1, 1)).cumsum(-1)
        self.high = total.to(dt.dtype)
        self.low = (total - self.high).to(dt.dtype)

    def of(self, b: int, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        return self.dt[b, part], self.high[b, part], self.low[b, part]


def _block(
    x: Tensor,
    B: Tensor,
    C: Tensor,
    decays: tuple[Tensor, Tensor, Tensor],
    D: Tensor | None,
    state: Tensor | None,
    y: Tensor,
    more: bool,
) -> Tensor | None:
    """A block of one sample's chunks into y; returns the state after it, [g, n, h, p], None unless `more`.

    x, y [c, l, g, h, p]; B, C [c, l, g, n]; decays [c, g, h, l] each; state as returned; D [heads]."""
    chunks, length, groups, heads, dim = x.shape
    dt, high, low = decays
    B, C = (t.transpose(1, 2).flatten(0, 1) for t in (B, C))  # [cg, l, n]

    # within a chunk: y_l += sum_{s<=l} (C_l . B_s) exp(sum_{s<i<=l} dt_i A) dt_s x_s
    scores = torch.bmm(C, B.mT).tril_().view(chunks, groups, 1, length, length)
    within = torch.sub(high[..., :, None], high[..., None, :])  # [c, g, h, l, s]
    within.add_(low[..., :, None]).sub_(low[..., None, :]).clamp_(max=0).exp_()  # s > l would overflow
    within.mul_(scores).mul_(dt[..., None, :])
    if D is not None:
        within.diagonal(dim1=-2, dim2=-1).add_(D.to(x.dtype).view(groups, heads, 1))

    # across chunks: each adds sum_s exp(sum_{i>s} dt_i A) dt_s x_s B_s to the state
    first = 0 if state is not None else 1  # before the first chunk there may be no state
    read = x.new_empty(chunks + 1, groups, B.shape[-1], heads, dim)
    if state is not None:
        read[0] = state
    adding = chunks if more else chunks - 1
    if adding:
        to_end = (high[..., -1:] - high + (low[..., -1:] - low)).exp_().mul_(dt)[:adding]
        weighted = x[:adding].transpose(1, 2) * to_end.mT[..., None]  # [c, g, l, h, p]
        added = torch.bmm(B[: adding * groups].mT, weighted.reshape(adding * groups, length, -1)).view(
            read[:adding].shape
        )
        over = high[..., -1].exp()[:, :, None, :, None]  # [c, g, 1, h, 1]
        for c in range(adding):
            if c < first:
                read[c + 1] = added[c]
            else:
                torch.addcmul(added[c], read[c], over[c], out=read[c + 1])

    heads_first = x.permute(0, 2, 3, 1, 4).reshape(-1, length, dim)  # [cgh, l, p]
    own = (
        torch.bmm(within.view(-1, length, length), heads_first).view(chunks, groups, heads, length, dim).transpose(2, 3)
    )
    out = y.transpose(1, 2)  # [c, g, l, h, p]
    out[:first] = own[:first]
    if chunks > first:
        from_state = torch.bmm(C[first * groups :], read[first:chunks].view((chunks - first) * groups, -1, heads * dim))
        from_start = high[first:].exp().mT[..., None]
        torch.addcmul(own[first:], from_state.view(out[first:].shape), from_start, out=out[first:])
    return read[chunks] if more else None
