"""The state that the SSM ends a text with: what Quamba calls ssm_state, and quantizes when it generates.

No fused kernel is hooked for it. It is computed from the convolution's output, dt and A by the recurrence in closed
form: h_T = sum_t exp(A sum_(s>t) dt_s) dt_t B_t x_t (Gu & Dao 2023, eq. 2; Dao & Gu 2024, section 2). A is negative, so
no exponent is above 0. All of it in float32, as the models' own scans, then cast to the activations' dtype, in which
a cache keeps it. That costs about as much as another scan, hence only on demand.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sweep.core.errors import UsageError
from sweep.models.mixer import Mixer


def final_state(mixer: Mixer, projected: Tensor, x: Tensor, b: Tensor | None) -> Tensor:
    """The last state of each text, [batch, d_state, d_inner], of the activations' dtype.

    projected: the output of `in_proj` [batch, seq, …]; x, b: `x_conv_out` and `B_conv_out` (Mamba-1: None),
    [batch, seq, channels]. Raises UsageError for a mixer whose state is not known here."""
    if mixer.family == "mamba2":
        assert b is not None
        return _mamba2(mixer, projected, x, b).to(x.dtype)
    if not hasattr(mixer.module, "x_proj"):
        raise UsageError(
            f"calibration.ssm_state=true: {type(mixer.module).__name__} keeps its state in a way of its own"
        )
    return _mamba1(mixer, x).to(x.dtype)


def _mamba2(mixer: Mixer, projected: Tensor, x: Tensor, b: Tensor) -> Tensor:
    module, heads = mixer.module, mixer.n_heads
    raw = projected[..., -heads:]
    if (multipliers := getattr(module, "mup_vector", None)) is not None:  # FalconH1's, per channel
        raw = raw * multipliers[..., -heads:]
    dt = F.softplus(raw.float() + module.dt_bias.float())  # [batch, seq, heads]
    limits = getattr(module, "time_step_limit", None) or getattr(module, "dt_limit", None)
    dt = dt.clamp(*limits) if limits else dt
    weight = dt * _decay(dt * -torch.exp(module.A_log.float()))
    batch, seq, _ = x.shape
    weighted = x.float().reshape(batch, seq, heads, -1) * weight[..., None]  # [batch, seq, heads, headdim]
    groups = b.float().reshape(batch, seq, mixer.n_groups, 1, mixer.d_state)
    per_group = weighted.reshape(batch, seq, mixer.n_groups, heads // mixer.n_groups, -1)
    state = torch.einsum("btghp,btgn->bnghp", per_group, groups[:, :, :, 0])
    return state.reshape(batch, mixer.d_state, -1)


def _mamba1(mixer: Mixer, x: Tensor) -> Tensor:
    module, n = mixer.module, mixer.d_state
    rank = module.x_proj.out_features - 2 * n
    step, b, _ = module.x_proj(x).split([rank, n, n], dim=-1)
    if hasattr(module, "dt_layernorm"):  # FalconMamba, Jamba
        step, b = module.dt_layernorm(step), module.b_layernorm(b)
    bias = module.dt_proj.bias
    dt = F.softplus(F.linear(step, module.dt_proj.weight).float() + (0 if bias is None else bias.float()))
    a = -torch.exp(module.A_log.float())  # [d_inner, d_state]
    later = dt.flip(1).cumsum(1).flip(1) - dt  # sum of dt after t
    driven = dt * x.float()
    # one state column at a time: [batch, seq, d_inner] is all that is held
    columns = [(torch.exp(later * a[:, k]) * driven * b[..., k : k + 1].float()).sum(1) for k in range(n)]
    return torch.stack(columns, 1)


def _decay(exponent: Tensor) -> Tensor:
    """exp of the sum of what comes after each position, along dimension 1."""
    return torch.exp(exponent.flip(1).cumsum(1).flip(1) - exponent)
