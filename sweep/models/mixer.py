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

from sweep.models.kernels.conv import Convolve, Convolved, convolve

IN_PROJ_IN, OUT_PROJ_IN = "in_proj_in", "out_proj_in"
STAGES = ("conv_in", "conv_pre", "conv_out")


@dataclass(frozen=True, eq=False)
class Mixer:
    """A Mamba mixer of a model and its geometry.

    layer: its number among the decoder layers of the network, those without a mixer counted.
    d_inner: channels of x; the gated SSM's output has as many.
    entry: the channels of the output of `in_proj` that enter conv1d.
    parts: names and widths of the slices of the convolution, in order: (("x", d_inner),) for Mamba-1,
    (("x", d_inner), ("B", n_groups * d_state), ("C", …)) for Mamba-2.
    """

    layer: int
    family: str  # mamba1 or mamba2
    module: Any  # the nn.Module; Any because its attributes differ between families
    d_inner: int
    d_state: int
    n_groups: int
    n_heads: int
    entry: slice
    parts: tuple[tuple[str, int], ...]

    @property
    def d_model(self) -> int:
        return int(self.module.in_proj.in_features)

    @property
    def conv_dim(self) -> int:
        return sum(width for _, width in self.parts)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, in the order of the data flow."""
        return tuple(self.widths)

    @property
    def widths(self) -> dict[str, int]:
        """Channels of every site."""
        conv = {f"{part}_{stage}": width for part, width in self.parts for stage in STAGES}
        return {IN_PROJ_IN: self.d_model, **conv, OUT_PROJ_IN: self.module.out_proj.in_features}

    @property
    def calls_in_proj(self) -> bool:
        """Whether in_proj runs as a module; mamba_ssm's Mamba-1 multiplies by its weight instead."""
        return not hasattr(self.module, "use_fast_path")

    def project(self, entered: Tensor) -> Tensor:
        """The output of in_proj for the mixer's input [batch, seq, d_model], as mamba_simple.py multiplies it."""
        linear = self.module.in_proj
        columns: Tensor = linear.weight @ entered.reshape(-1, entered.shape[-1]).T
        projected = columns.T.reshape(*entered.shape[:-1], -1)
        return projected if linear.bias is None else projected + linear.bias.to(projected.dtype)

    def weight_absmax(self) -> dict[str, float]:
        """max |w| of the conv1d weight slice behind each `…_conv_out` site."""
        slices = self.module.conv1d.weight.detach().split([width for _, width in self.parts])
        return {f"{part}_conv_out": float(w.abs().max()) for (part, _), w in zip(self.parts, slices, strict=True)}

    def conv_sites(self, projected: Tensor, convolve: Convolve = convolve) -> Iterator[tuple[str, Tensor]]:
        """The convolution's sites from the output of `in_proj` [batch, seq, …], each [batch, seq, channels].

        Bit for bit the model's own values if `convolve` is what the model itself uses.
        """
        conv = self.module.conv1d
        entered = projected[..., self.entry]
        if (multipliers := getattr(self.module, "mup_vector", None)) is not None:  # FalconH1's, per channel
            entered = entered * multipliers[..., self.entry]
        entered = entered.to(conv.weight.dtype)
        pre, out = convolve(entered, conv.weight, conv.bias)
        widths = [width for _, width in self.parts]
        for stage, tensor in zip(STAGES, (entered, pre, out), strict=True):
            for (part, _), piece in zip(self.parts, _split(tensor, widths), strict=True):
                yield f"{part}_{stage}", piece


def _split(tensor: Any, widths: list[int]) -> Any:
    """The parts of a tensor, or of what a convolution is to make of one, along the channels."""
    split = torch.split_with_sizes if isinstance(tensor, Tensor) else Convolved.split
    return split(tensor, widths, -1)


def mixers(model: nn.Module) -> list[Mixer]:
    """The Mamba mixers of a model in the order of its layers; empty if it has none."""
    needed = ("A_log", "conv1d", "in_proj", "out_proj")
    found = [_describe(m) for m in model.modules() if all(hasattr(m, name) for name in needed)]
    return sorted(found, key=lambda mixer: mixer.layer)


def _describe(module: Any) -> Mixer:
    conv_dim = module.conv1d.weight.shape[0]
    if hasattr(module, "x_proj") or hasattr(module, "x_proj_weight"):
        # [x, z]; Zamba's projection alternates instead: x0, z0, x1, z1, …
        entry = slice(0, None, 2) if hasattr(module, "x_proj_weight") else slice(0, conv_dim)
        n_heads = int(getattr(module, "n_mamba_heads", conv_dim))  # without Zamba's heads every channel is one
        d_state = module.A_log.shape[-1]
        return Mixer(module.layer_idx, "mamba1", module, conv_dim, d_state, 1, n_heads, entry, (("x", conv_dim),))
    n_heads = module.A_log.shape[0]
    n_groups = int(_first(module, "n_groups", "ngroups"))
    d_state = int(_first(module, "ssm_state_size", "d_state"))
    side = n_groups * d_state
    # in_proj gives [z, x, B, C, dt], in some models with an MLP's halves in front
    start = module.in_proj.out_features - n_heads - conv_dim
    parts = (("x", conv_dim - 2 * side), ("B", side), ("C", side))
    entry = slice(start, start + conv_dim)
    return Mixer(module.layer_idx, "mamba2", module, conv_dim - 2 * side, d_state, n_groups, n_heads, entry, parts)


def _first(module: Any, *names: str) -> Any:
    """The attribute as transformers or as mamba_ssm names it."""
    return next(getattr(module, name) for name in names if hasattr(module, name))


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
