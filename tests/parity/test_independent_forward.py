"""The taps against a forward pass written from the equations of Mamba-2 (arXiv 2405.21060), token by token,
in float64, with no code of transformers or of `sweep.models.mixer`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sweep.calibration.taps import taps
from sweep.config import knobs
from sweep.models import load

TINY = knobs.Model("tiny", "pkg://sweep/models/tiny")


def rms(x: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


Site = tuple[int, str]


def forward(
    weights: dict[str, Tensor], settings: object, ids: Tensor, change: Callable[[Site, Tensor], Tensor] = lambda _, x: x
) -> tuple[dict[Site, Tensor], Tensor]:
    """ids: [seq]. Returns every site, [seq, channels], and the logits, [seq, vocabulary].

    change: what becomes of a site's values before they are used."""
    heads, headdim, groups, state = settings.num_heads, settings.head_dim, settings.n_groups, settings.state_size
    inner, side, eps = heads * headdim, groups * state, settings.layer_norm_epsilon
    sites = {}

    def parts(layer: int, stage: str, tensor: Tensor) -> Tensor:
        pieces = zip("xBC", tensor.split([inner, side, side], -1), strict=True)
        return torch.cat([change((layer, f"{part}_{stage}"), piece) for part, piece in pieces], -1)

    stream = weights["backbone.embeddings.weight"][ids]
    for layer in range(settings.num_hidden_layers):
        own = {k.removeprefix(f"backbone.layers.{layer}."): v for k, v in weights.items() if f".layers.{layer}." in k}
        entered = change((layer, "in_proj_in"), rms(stream, eps) * own["norm.weight"])
        z, xbc, dt = (entered @ own["mixer.in_proj.weight"].T).split([inner, inner + 2 * side, heads], -1)
        xbc = parts(layer, "conv_in", xbc)
        kernel = own["mixer.conv1d.weight"][:, 0]  # [channels, taps]
        width = kernel.shape[1]
        padded = torch.cat([xbc.new_zeros(width - 1, xbc.shape[1]), xbc])
        pre = sum(padded[t : t + len(xbc)] * kernel[:, t] for t in range(width)) + own["mixer.conv1d.bias"]
        out = parts(layer, "conv_out", silu(pre))
        x, b, c = out.split([inner, side, side], -1)
        dt = torch.log1p(torch.exp(dt + own["mixer.dt_bias"]))  # [seq, heads]
        decay = torch.exp(-torch.exp(own["mixer.A_log"]) * dt)
        h = x.new_zeros(heads, headdim, state)
        ys = []
        for t in range(len(xbc)):
            xt = x[t].view(heads, headdim)
            bt, ct = (v[t].view(groups, state).repeat_interleave(heads // groups, 0) for v in (b, c))
            h = decay[t][:, None, None] * h + (dt[t][:, None] * xt)[:, :, None] * bt[:, None, :]
            ys.append((h * ct[:, None, :]).sum(-1) + own["mixer.D"][:, None] * xt)
        y = torch.stack(ys).flatten(1) * silu(z)
        y = change((layer, "out_proj_in"), rms(y.view(len(y), groups, -1), eps).flatten(1) * own["mixer.norm.weight"])
        stream = stream + y @ own["mixer.out_proj.weight"].T
        sites |= {(layer, "in_proj_in"): entered, (layer, "out_proj_in"): y}
        for stage, tensor in (("conv_in", xbc), ("conv_pre", pre), ("conv_out", out)):
            for part, piece in zip("xBC", tensor.split([inner, side, side], -1), strict=True):
                sites[layer, f"{part}_{stage}"] = piece
    logits = rms(stream, eps) * weights["backbone.norm_f.weight"] @ weights["lm_head.weight"].T
    return sites, logits


def test_every_tapped_site_is_what_the_equations_give() -> None:
    model = load.load(TINY, "cpu", "float32")
    ids = torch.from_numpy(load.encoder(TINY)("def silu(x):\n    return x / (1 + exp(-x))  # never above |x|\n" * 2))
    seen: dict[tuple[int, str], Tensor] = {}
    with torch.inference_mode(), taps(model.mixers, lambda layer, site, x: seen.update({(layer, site): x[0].clone()})):
        model.backbone(ids[None])
    weights = {name: value.double() for name, value in model.lm.state_dict().items()}
    with torch.inference_mode():
        expected, _ = forward(weights, model.lm.config, ids)
    assert seen.keys() == expected.keys()
    for key, value in expected.items():
        error = (seen[key].double() - value).abs().max() / value.abs().max()
        assert error < 2e-5, f"{key}: relative error {error:.1e}"
