"""Taps: while they are on, every forward pass of the model hands each site of each mixer to an observer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from sweep.models.conv import Convolve, convolve
from sweep.sites import IN_PROJ_IN, OUT_PROJ_IN, Mixer

Observe = Callable[[int, str, Tensor], None]  # layer, site, values [batch, seq, channels]


class TapError(RuntimeError):
    """A site did not fire, or not as often as it should have."""


class Fired:
    """Counts what passed each tap, so that a silent tap is an error and not an empty histogram."""

    def __init__(self, mixers: Sequence[Mixer]) -> None:
        self._expected = {(m.layer, site): width for m in mixers for site, width in m.widths.items()}
        self._seen = dict.fromkeys(self._expected, 0)

    def add(self, layer: int, site: str, tensor: Tensor) -> None:
        self._seen[layer, site] += tensor.numel()

    def check(self, tokens: int) -> None:
        """Raises TapError unless every site saw exactly `tokens` x its width values since the last check."""
        for (layer, site), width in self._expected.items():
            if (seen := self._seen[layer, site]) != tokens * width:
                raise TapError(
                    f"layer {layer}, site {site}: observed {seen} values where {tokens} tokens x {width} channels "
                    f"= {tokens * width} were expected. A fused path that bypasses in_proj or out_proj is the "
                    "usual cause: choose another backend"
                )
        self._seen = dict.fromkeys(self._seen, 0)


@contextmanager
def taps(mixers: Sequence[Mixer], observe: Observe, convolve: Convolve = convolve) -> Iterator[Fired]:
    """Hook every mixer's in_proj and out_proj; the hooks come off whatever happens inside.

    convolve: as the model itself does it (see `Mixer.conv_sites`)."""
    fired = Fired(mixers)

    def see(layer: int, site: str, tensor: Tensor) -> None:
        fired.add(layer, site, tensor)
        observe(layer, site, tensor)

    def after_in_proj(mixer: Mixer) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
            see(mixer.layer, IN_PROJ_IN, args[0])
            for site, tensor in mixer.conv_sites(output, convolve):
                see(mixer.layer, site, tensor)

        return hook

    def before_out_proj(mixer: Mixer) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Tensor, ...]) -> None:
            see(mixer.layer, OUT_PROJ_IN, args[0])

        return hook

    handles = []
    try:
        for mixer in mixers:
            handles.append(mixer.module.in_proj.register_forward_hook(after_in_proj(mixer)))
            handles.append(mixer.module.out_proj.register_forward_pre_hook(before_out_proj(mixer)))
        yield fired
    finally:
        for handle in handles:
            handle.remove()
