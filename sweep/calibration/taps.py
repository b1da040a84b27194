"""Taps: while they are on, every forward pass of the model hands each site of each mixer to an observer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from sweep.models.kernels.conv import Convolve, convolve
from sweep.models.mixer import Mixer, Point
from sweep.models.ssm_state import final_state
from sweep.quantization.sites import SSM_STATE

FUSED = ("use_fast_path", "use_mem_eff_path")  # mamba_ssm's switches for kernels that swallow out_proj
Observe = Callable[[int, str, Tensor], None]  # layer, site, values [batch, seq, channels]


class TapError(RuntimeError):
    """A site did not fire, or not as often as it should have."""


class Fired:
    """Counts what passed each tap, so that a silent tap is an error and not an empty histogram."""

    def __init__(self, mixers: Sequence[Mixer]) -> None:
        self._expected = {(m.layer, site): width for m in mixers for site, width in m.widths.items()}
        self._seen = dict.fromkeys(self._expected, 0)
        self._paths = {m.layer: f"{type(m.module).__module__}.{type(m.module).__qualname__}" for m in mixers}

    def add(self, layer: int, site: str, tensor: Tensor) -> None:
        self._seen[layer, site] += tensor.numel()

    def check(self, tokens: int) -> None:
        """Raises TapError unless every site saw exactly `tokens` x its width values since the last check."""
        for (layer, site), width in self._expected.items():
            if (seen := self._seen[layer, site]) != tokens * width:
                raise TapError(
                    f"layer {layer}, site {site}: observed {seen} values where {tokens} tokens x {width} channels "
                    f"= {tokens * width} were expected. A fused path of {self._paths[layer]} that bypasses in_proj "
                    "or out_proj is the usual cause: choose another model.backend"
                )
        self._seen = dict.fromkeys(self._seen, 0)


@contextmanager
def taps(
    mixers: Sequence[Mixer],
    observe: Observe,
    convolve: Convolve = convolve,
    ssm_state: bool = False,
    settle: Callable[[], None] = lambda: None,
) -> Iterator[Fired]:
    """Hook every mixer's in_proj and out_proj, with fused paths that bypass them off.

    convolve: as the model itself does it (see `Mixer.sites_of`). ssm_state: whether to compute and observe the
    last state of every text as well, [batch, d_state, d_inner]. settle: called before the model goes on with the
    sites of a convolution; what enters out_proj stays as it is, and waits for the next call.
    Hooks come off and paths come back whatever happens inside."""
    fired = Fired(mixers)

    def see(layer: int, site: str, tensor: Tensor) -> None:
        fired.add(layer, site, tensor)
        observe(layer, site, tensor)

    def see_all(mixer: Mixer, point: Point, tensor: Tensor) -> None:
        for site, channels in mixer.at(point).items():
            see(mixer.layer, site, tensor[..., channels])

    def see_up_to_convolution(mixer: Mixer, entered: Tensor, projected: Tensor) -> None:
        see_all(mixer, Point.IN_PROJ_IN, entered)
        last = {}
        for site, tensor in mixer.sites_of(projected, convolve):
            see(mixer.layer, site, tensor)
            last[site] = tensor
        if ssm_state:
            observe(mixer.layer, SSM_STATE, final_state(mixer, projected, last["x_conv_out"], last.get("B_conv_out")))
        settle()

    def after_in_proj(mixer: Mixer) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
            see_up_to_convolution(mixer, args[0], output)

        return hook

    def before_mixer(mixer: Mixer) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Tensor, ...]) -> None:
            see_up_to_convolution(mixer, args[0], mixer.project(args[0]))

        return hook

    def before_out_proj(mixer: Mixer) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Tensor, ...]) -> None:
            see_all(mixer, Point.OUT_PROJ_IN, args[0])

        return hook

    handles = []
    with unfused(mixers):
        try:
            for mixer in mixers:
                if mixer.calls_in_proj:
                    handles.append(mixer.in_proj.register_forward_hook(after_in_proj(mixer)))
                else:
                    handles.append(mixer.module.register_forward_pre_hook(before_mixer(mixer)))
                handles.append(mixer.out_proj.register_forward_pre_hook(before_out_proj(mixer)))
            yield fired
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def unfused(mixers: Sequence[Mixer]) -> Iterator[None]:
    """Inside, mamba_ssm takes the paths that call out_proj, and the convolution, by themselves."""
    switches = [(m.module, name) for m in mixers for name in FUSED if hasattr(m.module, name)]
    before = [getattr(module, name) for module, name in switches]
    try:
        for module, name in switches:
            setattr(module, name, False)
        yield
    finally:
        for (module, name), value in zip(switches, before, strict=True):
            setattr(module, name, value)
