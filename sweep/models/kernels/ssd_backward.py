"""Gradients of the scan of Mamba-2, by computing it again, a block of chunks at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sweep.models.kernels import ssd_blocks
from sweep.models.kernels.ssd_blocks import Chunks, scan


class Scan(torch.autograd.Function):
    """`scan` with gradients by x, dt, B and C. Nothing but its arguments is kept: backward computes it again, in
    operations that torch can differentiate, a block of chunks at a time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, dt, A, B, C, D)
        return scan(Chunks(x, dt, A, B, C, D))[0]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, D = ctx.saved_tensors
        with torch.enable_grad():
            x, dt, B, C = (t.detach().requires_grad_() for t in (x, dt, B, C))
            dx, ddt, dB, dC = torch.autograd.grad(_differentiable(x, dt, A, B, C, D), (x, dt, B, C), dy)
        return dx, ddt, None, dB, dC, None


def _differentiable(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> Tensor:
    """y of `scan`, by the same formulas with no operation in place."""
    _, chunks, length, groups, heads, dim = x.shape
    out, block = [], ssd_blocks.BLOCK
    causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
    state: Tensor | None = None  # [b, g, n, h, p]
    for start in range(0, chunks, block):
        xs, dts, Bs, Cs = (t[:, start : start + block].transpose(2, 3) for t in (x, dt, B, C))  # [b, c, g, l, …]
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
