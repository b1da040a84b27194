"""The last state against the recurrence itself, token by token in float64, and against the models' own caches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    FalconMambaConfig,
    FalconMambaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from sweep.calibration.taps import taps
from sweep.models.mixer import mixers

SMALL: dict[str, Any] = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
MODELS: dict[str, Any] = {
    "mamba2": lambda: Mamba2ForCausalLM(Mamba2Config(**SMALL, head_dim=16, num_heads=4, n_groups=2, chunk_size=16)),
    "mamba2, dt limited": lambda: Mamba2ForCausalLM(
        Mamba2Config(**SMALL, head_dim=16, num_heads=4, n_groups=1, chunk_size=16, time_step_limit=(0.01, 0.05))
    ),
    "mamba1": lambda: MambaForCausalLM(MambaConfig(**SMALL)),
    "falcon": lambda: FalconMambaForCausalLM(FalconMambaConfig(**SMALL)),
}


def run(name: str) -> tuple[nn.Module, dict[tuple[int, str], Tensor], dict[int, Tensor], Any]:
    """The model, all sites in float32, the outputs of in_proj and the model's cache."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for p in model.parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=0.3)  # states of some size
    found, seen, projected = mixers(model), {}, {}
    for mixer in found:
        mixer.module.in_proj.register_forward_hook(
            lambda m, args, out, layer=mixer.layer: projected.update({layer: out.clone()})
        )
    ids = torch.randint(0, 50, (3, 37))
    with torch.no_grad(), taps(found, lambda layer, site, x: seen.update({(layer, site): x.clone()}), ssm_state=True):
        out = model(ids, use_cache=True)
    return model, seen, projected, out.cache_params


def recurrence(mixer: Any, projected: Tensor, seen: dict[tuple[int, str], Tensor]) -> Tensor:
    """h <- exp(dt A) h + dt B x, one token after the other, [batch, d_state, d_inner]."""
    module, x = mixer.module, seen[mixer.layer, "x_conv_out"].double()
    batch, length, width = x.shape
    if mixer.family == "mamba2":
        a = -module.A_log.double().exp().repeat_interleave(width // mixer.n_heads)[:, None]  # [d_inner, 1]
        dt = F.softplus(projected[..., -mixer.n_heads :].double() + module.dt_bias.double())
        dt = dt.clamp(*module.time_step_limit).repeat_interleave(width // mixer.n_heads, -1)
        b = seen[mixer.layer, "B_conv_out"].double().reshape(batch, length, mixer.n_groups, 1, -1)
        b = b.expand(-1, -1, -1, width // mixer.n_groups, -1).reshape(batch, length, width, -1)
    else:
        a = -module.A_log.double().exp()
        double = module.x_proj.double()
        step, b, _ = double(x).split([module.x_proj.out_features - 2 * mixer.d_state, mixer.d_state, mixer.d_state], -1)
        if hasattr(module, "dt_layernorm"):
            step, b = (t * torch.rsqrt(t.square().mean(-1, keepdim=True) + 1e-6) for t in (step, b))
        dt = F.softplus(module.dt_proj.double()(step))
        b = b[:, :, None].expand(-1, -1, width, -1)
    h = torch.zeros(batch, width, mixer.d_state, dtype=torch.float64)
    for t in range(length):
        h = torch.exp(dt[:, t, :, None] * a) * h + dt[:, t, :, None] * b[:, t] * x[:, t, :, None]
    return h.transpose(1, 2)


@pytest.mark.parametrize("name", MODELS)
def test_equal_to_the_recurrence(name: str) -> None:
    model, seen, projected, _ = run(name)
    for mixer in mixers(model):
        mine = seen[mixer.layer, "ssm_state"]
        assert mine.shape == (3, mixer.d_state, mixer.d_inner)
        with torch.no_grad():
            expected = recurrence(mixer, projected[mixer.layer], seen)
        assert expected.abs().max() > 1e-2
        torch.testing.assert_close(mine.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["mamba2", "mamba1", "falcon"])
def test_equal_to_the_cache_of_the_model(name: str) -> None:
    model, seen, _, cache = run(name)
    for mixer in mixers(model):
        own = cache.layers[mixer.layer].recurrent_states
        (own,) = own.values()
        own = own.flatten(1, -2).transpose(1, 2).float()  # [batch, …, d_state]
        scale = float(own.abs().max())
        torch.testing.assert_close(seen[mixer.layer, "ssm_state"], own, rtol=1e-4, atol=1e-5 * scale)
