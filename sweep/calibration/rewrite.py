"""Access to the sites of a forward pass where fake quantization writes and where gradients are taken.

`in_proj_in` and `out_proj_in` are reached where they enter their projection, `…_conv_in` and `…_conv_out` where they
enter and leave the convolution. Since transformers 5.15 that is a function of the modelling file, `causal_conv1d_fn`,
as it is in mamba_ssm: it is wrapped for as long as the context lasts. Where mamba_ssm lacks the package causal_conv1d,
`conv1d` and `act` are modules and are hooked.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Protocol

from torch import Tensor

from sweep.calibration.taps import unfused
from sweep.core.errors import UsageError
from sweep.models.mixer import Mixer, Point
from sweep.quantization.types import SiteKey

CONVOLUTION = "causal_conv1d_fn"  # its name in the modelling files of transformers and mamba_ssm


class Visitor(Protocol):
    """Is handed the tensors that pass; the network goes on with what it returns."""

    def __call__(self, mixer: Mixer, point: Point, x: Tensor) -> Tensor:
        """x: all channels of a point, [batch, seq, channels]; `Mixer.at` says which are a site's."""


class Reached:
    """Counts of the values that passed each site, so that a site out of reach is an error by name."""

    def __init__(self, mixers: Sequence[Mixer], sites: Iterable[SiteKey]) -> None:
        """Raises UsageError for a site that the mixers do not have."""
        widths = {(m.layer, site): width for m in mixers for site, width in m.widths.items()}
        wanted = set(sites)
        if unknown := sorted(wanted - widths.keys()):
            raise UsageError("no such site: " + ", ".join(f"{site} of layer {layer}" for layer, site in unknown))
        self._widths = {key: width for key, width in widths.items() if key in wanted}
        self._seen: Counter[SiteKey] = Counter()
        self.backend = ", ".join(sorted({f"{type(m.module).__module__}.{type(m.module).__qualname__}" for m in mixers}))

    def add(self, layer: int, site: str, values: int) -> None:
        self._seen[layer, site] += values

    def missed(self, tokens: int, done: str) -> tuple[str, str] | None:
        """The first site that did not see just `tokens` x its width values since the last call, and how many it saw, in
        words; None where all did. done: the participle for the words, `quantized`."""
        seen, self._seen = self._seen, Counter()
        for (layer, site), width in self._widths.items():
            if (number := seen[layer, site]) != tokens * width:
                expected = f"where {tokens} tokens x {width} channels = {tokens * width} were expected"
                return f"{site} of layer {layer}", f"{number} values were {done} {expected}"
        return None


@contextmanager
def rewritten(mixers: Sequence[Mixer], visitor: Visitor) -> Iterator[None]:
    """Inside, every forward pass of the mixers' model hands these sites to the visitor and goes on with its answer.

    Hooks, functions and fused paths are put back whatever happens inside."""
    current: list[Mixer] = []  # the mixer that was entered last: the convolution is not told whose it is
    with ExitStack() as stack:
        stack.enter_context(unfused(mixers))
        for mixer in mixers:
            for handle in _hooks(mixer, visitor, current):
                stack.callback(handle.remove)
        for module in {sys.modules[type(m.module).__module__] for m in mixers}:
            if (original := getattr(module, CONVOLUTION, None)) is not None:
                stack.callback(setattr, module, CONVOLUTION, original)
                setattr(module, CONVOLUTION, _around(original, visitor, current))
        yield


def _around(original: Callable[..., Tensor], visitor: Visitor, current: list[Mixer]) -> Callable[..., Tensor]:
    """`causal_conv1d_fn(x [batch, channels, seq], …)` with what enters and leaves it handed to the visitor."""

    @wraps(original)
    def convolution(*args: Any, **named: Any) -> Tensor:
        if not current:
            return original(*args, **named)
        x = args[0] if args else named.pop("x")
        entered = visitor(current[-1], Point.CONV_IN, x.transpose(1, 2)).transpose(1, 2)
        left = original(entered, *args[1:], **named)
        return visitor(current[-1], Point.CONV_OUT, left.transpose(1, 2)).transpose(1, 2)

    return convolution


def _hooks(mixer: Mixer, visitor: Visitor, current: list[Mixer]) -> Iterator[Any]:
    module = mixer.module

    def entering(point: Point) -> Callable[..., tuple[Any, ...]]:
        return lambda _, args: (visitor(mixer, point, args[0]), *args[1:])

    def enter(*_: Any) -> None:
        current[:] = [mixer]

    yield module.register_forward_pre_hook(enter)
    yield (mixer.in_proj if mixer.calls_in_proj else module).register_forward_pre_hook(entering(Point.IN_PROJ_IN))
    if mixer.calls_in_proj and mixer.at(Point.IN_PROJ_OUT):
        yield mixer.in_proj.register_forward_hook(lambda _, args, out: visitor(mixer, Point.IN_PROJ_OUT, out))
    yield mixer.out_proj.register_forward_pre_hook(entering(Point.OUT_PROJ_IN))
    if getattr(sys.modules[type(module).__module__], CONVOLUTION, None) is None and hasattr(module, "act"):
        turned = mixer.family == "mamba1"  # its SiLU sees [batch, channels, seq]

        def before(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (visitor(mixer, Point.CONV_IN, args[0].transpose(1, 2)).transpose(1, 2), *args[1:])

        def after(_: Any, args: tuple[Any, ...], out: Tensor) -> Tensor:
            out = out.transpose(1, 2) if turned else out
            out = visitor(mixer, Point.CONV_OUT, out)
            return out.transpose(1, 2) if turned else out

        yield mixer.conv1d.register_forward_pre_hook(before)
        yield module.act.register_forward_hook(after)
