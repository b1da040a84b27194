"""The causal depthwise convolution of a Mamba mixer and its SiLU, for the taps and for the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

Part = tuple[Tensor, Tensor, Tensor]  # of some texts what enters, before SiLU, after it: [texts, seq, channels] each
Convolve = Callable[[Tensor, Tensor, Tensor | None], Iterator[Part]]


def convolve(entered: Tensor, weight: Tensor, bias: Tensor | None) -> Iterator[Part]:
    """All texts in one part, by the operations of transformers' `causal_conv1d_fn`.

    entered [batch, seq, channels]; weight [channels, 1, kernel]; bias [channels] or None."""
    pre = _channels_first(entered, weight, bias)
    yield entered, pre.transpose(1, 2), F.silu(pre).transpose(1, 2)


class SharedConvolution:
    """The same to float32 rounding, for a CPU: without a transpose (17 times faster), text by text, so that one is
    still in the cache when it is observed, and once for tap and model.

    Call it like `convolve`; give the model `causal_conv1d_fn`, which takes what was computed for the tap just before.
    """

    def __init__(self) -> None:
        self._last: tuple[object, Tensor, Tensor] | None = None

    def __call__(self, entered: Tensor, weight: Tensor, bias: Tensor | None) -> Iterator[Part]:
        out = torch.empty(entered.shape, dtype=weight.dtype)
        for text in range(len(entered)):
            one = slice(text, text + 1)
            pre = _channels_last(entered[one], weight, bias)
            torch.ops.aten.silu.out(pre, out=out[one])
            yield entered[one], pre, out[one]
        # `entered` is kept so that no other tensor can come to lie at its address
        self._last = (_key(entered, weight), entered, out)

    def causal_conv1d_fn(
        self,
        hidden_states: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        activation: str | None = None,
        **_: object,
    ) -> Tensor:
        """What transformers calls: hidden_states [batch, channels, seq], weight [channels, kernel]."""
        entered, weight = hidden_states.transpose(1, 2), weight.unsqueeze(1)
        if activation is None:
            return torch.cat([pre for _, pre, _ in self(entered, weight, bias)]).transpose(1, 2)
        assert activation in ("silu", "swish"), activation
        if self._last is None or self._last[0] != _key(entered, weight):
            for _part in self(entered, weight, bias):
                pass
        assert self._last
        return self._last[2].transpose(1, 2)


def _key(entered: Tensor, weight: Tensor) -> object:
    return entered.data_ptr(), entered.shape, entered.stride(), weight.data_ptr()


def _channels_first(entered: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    channels_first = entered.transpose(1, 2).to(weight.dtype)
    padding, channels = weight.shape[-1] - 1, weight.shape[0]
    return F.conv1d(channels_first, weight, bias, padding=padding, groups=channels)[..., : entered.shape[1]]


def _channels_last(entered: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if weight.dtype not in (torch.float32, torch.bfloat16):  # oneDNN has no such kernel for the others
        return _channels_first(entered, weight, bias).transpose(1, 2)
    padded = F.pad(entered.to(weight.dtype), (0, 0, weight.shape[-1] - 1, 0))
    image = padded.transpose(1, 2).unsqueeze(2)  # [batch, channels, 1, seq], channels adjacent in memory
    return F.conv2d(image, weight.unsqueeze(2), bias, groups=weight.shape[0]).squeeze(2).transpose(1, 2)
