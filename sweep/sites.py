"""Which tensors of a Mamba mixer are observed, and how each follows from the output of `in_proj`.

in_proj_in ─ in_proj ─► x|B|C_conv_in ─ conv1d ─► …_conv_pre ─ SiLU ─► …_conv_out ─ SSM, gate, norm ─► out_proj_in

Nothing but `in_proj` and `out_proj` is hooked: since transformers 5.15 the convolution and its SiLU are one
function that no hook sees, and fused kernels hide even more. The rest is computed from the output of
`in_proj` with the mixer's own weights, as the mixer itself computes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IN_PROJ_IN, OUT_PROJ_IN = "in_proj_in", "out_proj_in"
STAGES = ("conv_in", "conv_pre", "conv_out")


@dataclass(frozen=True, eq=False)
class Mixer:
    """A Mamba mixer of a model and its geometry.

    start: first channel, in the output of `in_proj`, of what enters conv1d.
    parts: names and widths of the slices of the convolution, in order: (("x", d_inner),) for Mamba-1,
    (("x", d_inner), ("B", n_groups * d_state), ("C", …)) for Mamba-2.
    """

    layer: int
    family: str  # mamba1 or mamba2
    module: Any  # the nn.Module; Any because its attributes differ between families
    d_model: int
    d_inner: int
    d_state: int
    n_groups: int
    n_heads: int
    start: int
    parts: tuple[tuple[str, int], ...]

    @property
    def conv_dim(self) -> int:
        return sum(width for _, width in self.parts)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, in the order of the data flow."""
        conv = [f"{part}_{stage}" for part, _ in self.parts for stage in STAGES]
        return (IN_PROJ_IN, *conv, OUT_PROJ_IN)

    @property
    def widths(self) -> dict[str, int]:
        """Channels of every site."""
        conv = {f"{part}_{stage}": width for part, width in self.parts for stage in STAGES}
        return {IN_PROJ_IN: self.d_model, **conv, OUT_PROJ_IN: self.d_inner}

    def weight_absmax(self) -> dict[str, float]:
        """max |w| of the conv1d weight slice behind each `…_conv_out` site."""
        slices = self.module.conv1d.weight.detach().split([width for _, width in self.parts])
        return {f"{part}_conv_out": float(w.abs().max()) for (part, _), w in zip(self.parts, slices, strict=True)}

    def conv_sites(self, projected: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The convolution's sites from the output of `in_proj` [batch, seq, …], each [batch, seq, channels].

        Bit for bit the model's own values: the same operations on the same weights in the same dtype.
        """
        conv = self.module.conv1d
        entered = projected[..., self.start : self.start + self.conv_dim]
        channels_first = entered.transpose(1, 2).to(conv.weight.dtype)
        length = entered.shape[1]
        padding = conv.weight.shape[-1] - 1
        pre = F.conv1d(channels_first, conv.weight, conv.bias, padding=padding, groups=self.conv_dim)
        pre = pre[..., :length]
        out = F.silu(pre)
        for stage, tensor in zip(STAGES, (entered, pre.transpose(1, 2), out.transpose(1, 2)), strict=True):
            widths = [width for _, width in self.parts]
            for (part, _), piece in zip(self.parts, torch.split_with_sizes(tensor, widths, dim=-1), strict=True):
                yield f"{part}_{stage}", piece


def mixers(model: nn.Module) -> list[Mixer]:
    """The Mamba mixers of a model in the order of its layers; empty if it has none."""
    found = [m for m in model.modules() if hasattr(m, "A_log") and hasattr(m, "conv1d") and hasattr(m, "in_proj")]
    return [_describe(layer, module) for layer, module in enumerate(found)]


def _describe(layer: int, module: Any) -> Mixer:
    d_model, d_inner = module.in_proj.in_features, module.out_proj.in_features
    conv_dim = module.conv1d.weight.shape[0]
    if hasattr(module, "x_proj"):
        d_state = module.A_log.shape[-1]
        return Mixer(layer, "mamba1", module, d_model, d_inner, d_state, 1, d_inner, 0, (("x", d_inner),))
    n_heads = module.A_log.shape[0]
    n_groups = int(module.n_groups)
    side = (conv_dim - d_inner) // 2
    # in_proj gives [z, x, B, C, dt], in some models with an MLP's halves in front
    start = module.in_proj.out_features - n_heads - conv_dim
    parts = (("x", d_inner), ("B", side), ("C", side))
    return Mixer(layer, "mamba2", module, d_model, d_inner, side // n_groups, n_groups, n_heads, start, parts)


def geometry(mixer: Mixer) -> dict[str, int | str]:
    """The shape of a mixer, as it is recorded with statistics and runs."""
    return {
        "family": mixer.family,
        "d_model": mixer.d_model,
        "d_inner": mixer.d_inner,
        "n_groups": mixer.n_groups,
        "n_heads": mixer.n_heads,
        "headdim": mixer.d_inner // mixer.n_heads,
        "d_state": mixer.d_state,
    }
