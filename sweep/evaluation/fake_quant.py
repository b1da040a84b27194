"""Fake quantization: while it is on, chosen sites of a forward pass hold nothing but what a format can represent.

How the sites are reached is `sweep.calibration.rewrite`'s affair.

Every value that was rounded is counted: a site that some fused kernel keeps out of reach is an error by name, and
never a number that looks as if quantization cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sweep.calibration.rewrite import Reached, rewritten
from sweep.core.errors import UsageError
from sweep.evaluation.channel_quantizer import Rounding
from sweep.models.mixer import Mixer, Point
from sweep.quantization.types import SiteKey


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
    rounders: Mapping[SiteKey, Rounder]

    def __post_init__(self) -> None:
        self._reached = Reached(self.mixers, self.rounders)

    def __call__(self, mixer: Mixer, point: Point, x: Tensor) -> Tensor:
        sites = mixer.at(point).items()
        wanted = [(s, channels, r) for s, channels in sites if (r := self.rounders.get((mixer.layer, s)))]
        if not wanted:
            return x
        out = x.clone()  # with x's strides: kernels mind them
        for site, channels, rounder in wanted:
            piece = x[..., channels]
            self._reached.add(mixer.layer, site, piece.numel())
            out[..., channels] = rounder(piece)
        return out

    def check(self, tokens: int) -> None:
        """Raises UsageError unless every asked-for site rounded just `tokens` x its width values since last time."""
        if missed := self._reached.missed(tokens, "quantized"):
            site, saw = missed
            raise UsageError(
                f"evaluate.sites: {site} cannot be reached in {self._reached.backend}: {saw}. "
                "Choose another model.backend, or sites without it"
            )


@contextmanager
def fake_quantized(mixers: Sequence[Mixer], roundings: Mapping[SiteKey, Rounding]) -> Iterator[Quantized]:
    """Inside, every forward pass of the mixers' model rounds the sites of `roundings`.

    Hooks, functions and fused paths are put back whatever happens inside. Call `check` on what this yields after
    every forward pass. Raises UsageError for a site that the model does not have."""
    devices = {m.layer: m.out_proj.weight.device for m in mixers}
    quantized = Quantized(
        mixers,
        {key: Rounder(rounding, devices.get(key[0], torch.device("cpu"))) for key, rounding in roundings.items()},
    )
    with rewritten(mixers, quantized):
        yield quantized
