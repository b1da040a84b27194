"""Forward pass of the scan of Mamba-2: every chunk's pairs of tokens multiplied out, and states across chunks.

Axes: b batch, c chunks, l tokens of a chunk, g groups, h heads of a group, p dimensions of a head, n of the state.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 8  # chunks computed together; what they need is a few MB at the sizes of Mamba-2


class Chunks(NamedTuple):
    """The scan's operands, cut into chunks: x [b, c, l, g, h, p]; dt [b, c, l, g, h]; A, D [heads]; B, C
    [b, c, l, g, n]."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None


class _Block(NamedTuple):
    """Operands of some chunks of one sample: x [c, l, g, h, p]; B, C [c, l, g, n]; dt, and the running sums of dt A as
    high + low, [c, g, h, l] each; D [heads]."""

    x: Tensor
    B: Tensor
    C: Tensor
    dt: Tensor
    high: Tensor
    low: Tensor
    D: Tensor | None


def scan(
    given: Chunks, initial_states: Tensor | None = None, return_final_states: bool = False
) -> tuple[Tensor, Tensor | None]:
    """y, shaped as x [b, c, l, g, h, p], and the last state [b, g, n, h, p], if asked for."""
    x, dt, A, B, C, D = given
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
            block = _Block(x[b, part], B[b, part], C[b, part], *decays.of(b, part), D)
            state = _compute(block, state, y[b, part], more)
        if last is not None and state is not None:
            last[b] = state
    return y, last


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


def _compute(block: _Block, state: Tensor | None, y: Tensor, more: bool) -> Tensor | None:
    """Write the block's y [c, l, g, h, p]; returns the state after it, [g, n, h, p], None unless `more`.

    state: the one before it, None for zeros."""
    x, B, C, dt, high, low, D = block
    chunks, length, groups, heads, dim = x.shape
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
