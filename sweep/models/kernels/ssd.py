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

from sweep.models.kernels.ssd_backward import Scan
from sweep.models.kernels.ssd_blocks import Chunks, scan

CHUNK = 64  # tokens whose pairs are multiplied out; measured: see bench/forward.py


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
        y, last = Scan.apply(x, dt, A, B, C, D), None  # type: ignore[no-untyped-call]
    else:
        y, last = scan(Chunks(x, dt, A, B, C, D), initial_states, return_final_states)
    y = y.view(batch, -1, heads, dim)[:, :length]
    return y if last is None else (y, last.permute(0, 1, 3, 4, 2).flatten(1, 2))
