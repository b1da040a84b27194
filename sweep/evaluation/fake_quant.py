"""Fake quantization: while it is on, chosen sites of a forward pass hold nothing but what a format can represent.

`in_proj_in` and `out_proj_in` are replaced where they enter their projection, `…_conv_in` and `…_conv_out` where
they enter and leave the convolution. Since transformers 5.15 that is a function of the modelling file,
`causal_conv1d_fn`, as it is in mamba_ssm: it is wrapped for as long as the context lasts. Where mamba_ssm lacks
the package causal_conv1d, `conv1d` and `act` are modules and are hooked.

Every value that was rounded is counted: a site that some fused kernel keeps out of reach is an error by name, and
never a number that looks as if quantization cost nothing.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from sweep.calibration.taps import unfused
from sweep.core.errors import UsageError
from sweep.evaluation.channel_quantizer import Rounding
from sweep.models.mixer import IN_PROJ_IN, OUT_PROJ_IN, Mixer

Key = tuple[int, str]  # layer, site
CONVOLUTION = "causal_conv1d_fn"  # its name in the modelling files of transformers and mamba_ssm


class Rounder:
    """`Rounding` on a device: x [..., channels] to the nearest representable values, in x's dtype.

    Codes are found in float64, as `Quantizer.encode` finds them; only the result is cast."""

    def __init__(self, rounding: Rounding, device: torch.device) -> None:
        def tensor(values: Any) -> Tensor:
            return torch.as_tensor(values, dtype=torch.float64, device=device)

        self._scale, self._low, self._high = tensor(rounding.scale), tensor(rounding.low), tensor(rounding.high)
        self._divisor = torch.where(self._scale > 0, self._scale, 1.0)  # at scale 0 everything becomes 0
        self._finest, self._relative = rounding.finest, rounding.relative
        if self._relative is None:
            self._codes, self._borders = tensor(rounding.format.codes), tensor(rounding.borders)

    def __call__(self, x: Tensor) -> Tensor:
        codes = x.to(torch.float64) / self._divisor
        if self._relative is None:
            return self._codes[torch.bucketize(codes, self._borders)].mul_(self._scale).to(x.dtype)
        if self._relative:
            step = (codes.view(torch.int64) & _EXPONENT).view(torch.float64)  # 2^floor(log2 |code|)
            step.mul_(self._relative).clamp_(min=self._finest)
            codes.div_(step).round_().mul_(step)
        else:
            codes.round_()
        return torch.minimum(torch.maximum(codes, self._low), self._high).mul_(self._scale).to(x.dtype)


_EXPONENT = 0x7FF0_0000_0000_0000  # the exponent bits of a float64


@dataclass(eq=False)
class Quantized:
    """Rounds what passes the asked-for sites and counts it."""

    mixers: Sequence[Mixer]
    rounders: Mapping[Key, Rounder]
    backend: str

    def __post_init__(self) -> None:
        widths = {(m.layer, site): width for m in self.mixers for site, width in m.widths.items()}
        if unknown := sorted(self.rounders.keys() - widths.keys()):
            raise UsageError("no such site: " + ", ".join(f"{site} of layer {layer}" for layer, site in unknown))
        self._widths = {key: widths[key] for key in self.rounders}
        self._seen: Counter[Key] = Counter()

    def __call__(self, layer: int, site: str, x: Tensor) -> Tensor:
        if (rounder := self.rounders.get((layer, site))) is None:
            return x
        self._seen[layer, site] += x.numel()
        return rounder(x)

    def convolution(self, mixer: Mixer, stage: str, x: Tensor) -> Tensor:
        """x: all parts of the convolution's input or output side by side, [batch, seq, channels]."""
        names = [f"{part}_{stage}" for part, _ in mixer.parts]
        if not any((mixer.layer, name) in self.rounders for name in names):
            return x
        out, widths = torch.empty_like(x), [width for _, width in mixer.parts]  # x's strides: kernels mind them
        split = torch.split_with_sizes
        for name, into, piece in zip(names, split(out, widths, -1), split(x, widths, -1), strict=True):
            into.copy_(self(mixer.layer, name, piece))
        return out

    def check(self, tokens: int) -> None:
        """Raises UsageError unless every asked-for site rounded just `tokens` x its width values since last time."""
        for (layer, site), width in self._widths.items():
            if (seen := self._seen[layer, site]) != tokens * width:
                raise UsageError(
                    f"evaluate.sites: {site} of layer {layer} cannot be reached in {self.backend}: {seen} values were "
                    f"quantized where {tokens} tokens x {width} channels = {tokens * width} were expected. Choose "
                    "another model.backend, or sites without it"
                )
        self._seen.clear()


@contextmanager
def fake_quantized(mixers: Sequence[Mixer], roundings: Mapping[Key, Rounding]) -> Iterator[Quantized]:
    """Inside, every forward pass of the mixers' model rounds the sites of `roundings`.

    Hooks, functions and fused paths are put back whatever happens inside. Call `check` on what this yields after
    every forward pass. Raises UsageError for a site that the model does not have."""
    devices = {m.layer: m.module.out_proj.weight.device for m in mixers}
    kinds = {type(m.module) for m in mixers}
    quantized = Quantized(
        mixers,
        {key: Rounder(rounding, devices.get(key[0], torch.device("cpu"))) for key, rounding in roundings.items()},
        ", ".join(sorted(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)),
    )
    current: list[Mixer] = []  # the mixer that was entered last: the convolution is not told whose it is
    with ExitStack() as stack:
        stack.enter_context(unfused(mixers))
        for mixer in mixers:
            for handle in _hooks(mixer, quantized, current):
                stack.callback(handle.remove)
        for module in {sys.modules[kind.__module__] for kind in kinds}:
            if (original := getattr(module, CONVOLUTION, None)) is not None:
                stack.callback(setattr, module, CONVOLUTION, original)
                setattr(module, CONVOLUTION, _around(original, quantized, current))
        yield quantized


def _around(original: Callable[..., Tensor], quantized: Quantized, current: list[Mixer]) -> Callable[..., Tensor]:
    """`causal_conv1d_fn(x [batch, channels, seq], …)` with what enters and leaves it rounded."""

    @wraps(original)
    def convolution(*args: Any, **named: Any) -> Tensor:
        if not current:
            return original(*args, **named)
        x = args[0] if args else named.pop("x")
        entered = quantized.convolution(current[-1], "conv_in", x.transpose(1, 2)).transpose(1, 2)
        left = original(entered, *args[1:], **named)
        return quantized.convolution(current[-1], "conv_out", left.transpose(1, 2)).transpose(1, 2)

    return convolution


def _hooks(mixer: Mixer, quantized: Quantized, current: list[Mixer]) -> Iterator[Any]:
    module = mixer.module

    def entering(site: str) -> Callable[..., tuple[Any, ...]]:
        return lambda _, args: (quantized(mixer.layer, site, args[0]), *args[1:])

    def enter(*_: Any) -> None:
        current[:] = [mixer]

    yield module.register_forward_pre_hook(enter)
    yield (module.in_proj if mixer.calls_in_proj else module).register_forward_pre_hook(entering(IN_PROJ_IN))
    yield module.out_proj.register_forward_pre_hook(entering(OUT_PROJ_IN))
    if getattr(sys.modules[type(module).__module__], CONVOLUTION, None) is None and hasattr(module, "act"):
        turned = mixer.family == "mamba1"  # its SiLU sees [batch, channels, seq]

        def before(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (quantized.convolution(mixer, "conv_in", args[0].transpose(1, 2)).transpose(1, 2), *args[1:])

        def after(_: Any, args: tuple[Any, ...], out: Tensor) -> Tensor:
            out = out.transpose(1, 2) if turned else out
            out = quantized.convolution(mixer, "conv_out", out)
            return out.transpose(1, 2) if turned else out

        yield module.conv1d.register_forward_pre_hook(before)
        yield module.act.register_forward_hook(after)
