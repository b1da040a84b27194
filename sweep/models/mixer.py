"""Mamba mixers of a network, and how each site of theirs is read in its forward pass.

in_proj_in ─ in_proj ─► x|B|C_conv_in ─ conv1d ─► …_conv_pre ─ SiLU ─► …_conv_out ─ SSM, gate, norm ─► out_proj_in

Nothing but `in_proj` and `out_proj` is hooked: since transformers 5.15 the convolution and its SiLU are one
function that no hook sees, and fused kernels hide even more. The rest is computed from the output of
`in_proj` with the mixer's own weights, as the mixer itself computes it. Where sites are rewritten, see
`sweep.calibration.rewrite`. Names, order and roles of the sites are in `sweep.quantization.sites`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor, nn

from sweep.models.families import FAMILIES
from sweep.models.kernels.conv import Convolve, convolve


class Point(Enum):
    """Tensors of a mixer's forward pass, [batch, seq, channels], in its order."""

    IN_PROJ_IN = "input of in_proj"
    IN_PROJ_OUT = "output of in_proj"
    CONV_IN = "input of the convolution"
    CONV_PRE = "output of the convolution, before SiLU"
    CONV_OUT = "output of the convolution, after SiLU"
    OUT_PROJ_IN = "input of out_proj"


@dataclass(frozen=True)
class Tap:
    """A site's place: some channels of a point. channels: their slice in a mixer, None for a mixer without the site.

    A site at any point but CONV_PRE can be rewritten, hence quantized and differentiated."""

    point: Point
    channels: Callable[[Mixer], slice | None]


def _part(name: str) -> Callable[[Mixer], slice | None]:
    """Channels of a slice of the convolution: x, B or C."""

    def channels(mixer: Mixer) -> slice | None:
        start = 0
        for part, width in mixer.parts:
            if part == name:
                return slice(start, start + width)
            start += width
        return None

    return channels


TAPS: dict[str, Tap] = {  # by site, in the order of the tables' rows
    "in_proj_in": Tap(Point.IN_PROJ_IN, lambda _: slice(None)),
    **{
        f"{part}_{name}": Tap(point, _part(part))
        for part in "xBC"
        for name, point in (("conv_in", Point.CONV_IN), ("conv_pre", Point.CONV_PRE), ("conv_out", Point.CONV_OUT))
    },
    "out_proj_in": Tap(Point.OUT_PROJ_IN, lambda _: slice(None)),
}


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
    in_proj: Any
    conv1d: Any
    out_proj: Any
    d_inner: int
    d_state: int
    n_groups: int
    n_heads: int
    entry: slice
    parts: tuple[tuple[str, int], ...]

    @property
    def d_model(self) -> int:
        return int(self.in_proj.in_features)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, in the order of the tables' rows."""
        return tuple(self.widths)

    @property
    def widths(self) -> dict[str, int]:
        """Channels of every site."""
        conv = sum(width for _, width in self.parts)
        totals = {
            Point.IN_PROJ_IN: self.d_model,
            Point.IN_PROJ_OUT: int(self.in_proj.out_features),
            **dict.fromkeys((Point.CONV_IN, Point.CONV_PRE, Point.CONV_OUT), conv),
            Point.OUT_PROJ_IN: int(self.out_proj.in_features),
        }
        taken = {site: (tap.point, tap.channels(self)) for site, tap in TAPS.items()}
        return {site: len(range(totals[point])[own]) for site, (point, own) in taken.items() if own is not None}

    def at(self, point: Point) -> dict[str, slice]:
        """Channels of each site that is read at a point."""
        taken = {site: tap.channels(self) for site, tap in TAPS.items() if tap.point is point}
        return {site: channels for site, channels in taken.items() if channels is not None}

    @property
    def calls_in_proj(self) -> bool:
        """True if in_proj runs as a module; mamba_ssm's Mamba-1 multiplies by its weight instead."""
        return not hasattr(self.module, "use_fast_path")

    def project(self, entered: Tensor) -> Tensor:
        """The output of in_proj for the mixer's input [batch, seq, d_model], as mamba_simple.py multiplies it."""
        linear = self.in_proj
        columns: Tensor = linear.weight @ entered.reshape(-1, entered.shape[-1]).T
        projected = columns.T.reshape(*entered.shape[:-1], -1)
        return projected if linear.bias is None else projected + linear.bias.to(projected.dtype)

    def weight_absmax(self) -> dict[str, float]:
        """max |w| of the conv1d weight slice behind each `…_conv_out` site."""
        slices = self.conv1d.weight.detach().split([width for _, width in self.parts])
        return {f"{part}_conv_out": float(w.abs().max()) for (part, _), w in zip(self.parts, slices, strict=True)}

    def sites_of(self, projected: Tensor, convolve: Convolve = convolve) -> Iterator[tuple[str, Tensor]]:
        """The sites from the output of `in_proj` [batch, seq, …] to that of the convolution, [batch, seq, channels].

        Bit for bit the model's own values if `convolve` is what the model itself uses."""
        entered = projected[..., self.entry]
        if (multipliers := getattr(self.module, "mup_vector", None)) is not None:  # FalconH1's, per channel
            entered = entered * multipliers[..., self.entry]
        entered = entered.to(self.conv1d.weight.dtype)
        pre, out = convolve(entered, self.conv1d.weight, self.conv1d.bias)
        tensors = {Point.IN_PROJ_OUT: projected, Point.CONV_IN: entered, Point.CONV_PRE: pre, Point.CONV_OUT: out}
        for point, tensor in tensors.items():
            for site, channels in self.at(point).items():
                yield site, tensor[..., channels]


def mixers(model: nn.Module) -> list[Mixer]:
    """The Mamba mixers of a model in the order of its layers; empty if it has none."""
    ways = [*(family.mixer for family in FAMILIES.values() if family.mixer), described]
    each = (next(filter(None, (way(module) for way in ways)), None) for module in model.modules())
    return sorted((mixer for mixer in each if mixer), key=lambda mixer: mixer.layer)


def described(module: Any) -> Mixer | None:
    """The mixer that a module is, by the attributes that transformers and mamba_ssm give it; None for another one."""
    if not all(hasattr(module, name) for name in ("A_log", "conv1d", "in_proj", "out_proj")):
        return None
    conv_dim = module.conv1d.weight.shape[0]
    if hasattr(module, "x_proj") or hasattr(module, "x_proj_weight"):
        # [x, z]; Zamba's projection alternates instead: x0, z0, x1, z1, …
        entry = slice(0, None, 2) if hasattr(module, "x_proj_weight") else slice(0, conv_dim)
        n_heads = int(getattr(module, "n_mamba_heads", conv_dim))  # without Zamba's heads every channel is one
        d_state = module.A_log.shape[-1]
        sizes = {"d_inner": conv_dim, "d_state": d_state, "n_groups": 1, "n_heads": n_heads}
        parts: tuple[tuple[str, int], ...] = (("x", conv_dim),)
        return Mixer(
            module.layer_idx, "mamba1", module, *_layers(module), **sizes, entry=entry, parts=(("x", conv_dim),)
        )
    n_heads = module.A_log.shape[0]
    n_groups = int(_first(module, "n_groups", "ngroups"))
    d_state = int(_first(module, "ssm_state_size", "d_state"))
    side = n_groups * d_state
    # in_proj gives [z, x, B, C, dt], in some models with an MLP's halves in front
    start = module.in_proj.out_features - n_heads - conv_dim
    parts = (("x", conv_dim - 2 * side), ("B", side), ("C", side))
    entry = slice(start, start + conv_dim)
    sizes = {"d_inner": conv_dim - 2 * side, "d_state": d_state, "n_groups": n_groups, "n_heads": n_heads}
    return Mixer(module.layer_idx, "mamba2", module, *_layers(module), **sizes, entry=entry, parts=parts)


def _layers(module: Any) -> tuple[Any, Any, Any]:
    return module.in_proj, module.conv1d, module.out_proj


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
