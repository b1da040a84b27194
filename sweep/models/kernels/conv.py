"""The causal depthwise convolution of a Mamba mixer and its SiLU, for the taps and for the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Convolve = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
TAPS = 4  # widest kernel that is computed while its result is observed; all published Mamba networks have it


def convolve(entered: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Before and after SiLU, [batch, seq, channels] each, by the operations of transformers' `causal_conv1d_fn`.

    entered [batch, seq, channels]; weight [channels, 1, kernel]; bias [channels] or None."""
    channels_first = entered.transpose(1, 2).to(weight.dtype)
    padding, channels = weight.shape[-1] - 1, weight.shape[0]
    pre = F.conv1d(channels_first, weight, bias, padding=padding, groups=channels)[..., : entered.shape[1]]
    return pre.transpose(1, 2), F.silu(pre).transpose(1, 2)


@dataclass(eq=False, slots=True)  # frozen it would take twice as long to make, eight times a mixer
class Convolved:
    """The future result of a convolution of `entered` [batch, seq, channels], before or after SiLU: for an observer
    that computes the values as it counts them, so that they need not be written to memory and read again.

    weight [channels, kernel]; bias [channels] or None. It answers to what is asked of a tensor that is observed."""

    entered: Tensor
    weight: Tensor
    bias: Tensor | None
    silu: bool

    @property
    def shape(self) -> torch.Size:
        return self.entered.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.entered.dtype

    @property
    def device(self) -> torch.device:
        return self.entered.device

    def numel(self) -> int:
        return self.entered.numel()

    def __len__(self) -> int:
        return len(self.entered)

    def __getitem__(self, at: tuple[Any, slice]) -> Convolved:
        """The result for some channels: `convolved[..., channels]`."""
        _, channels = at
        bias = None if self.bias is None else self.bias[channels]
        return Convolved(self.entered[..., channels], self.weight[channels], bias, self.silu)


def lazily(entered: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Any, Any]:
    """`convolve` without computing anything: a `Convolved` before and one after SiLU, in place of tensors; tensors all
    the same for a kernel that is wider than TAPS, or of several dtypes."""
    if weight.shape[-1] > TAPS or {entered.dtype, *(() if bias is None else (bias.dtype,))} != {weight.dtype}:
        return convolve(entered, weight, bias)
    before, after = (Convolved(entered, weight.squeeze(1), bias, silu) for silu in (False, True))
    return before, after


class SharedConvolution:
    """The convolution for CPUs, equal to float32 rounding: without a transpose (17 times faster), computed once for tap
    and model.

    Call it like `convolve`; give the model `causal_conv1d_fn`. Whichever comes second gets the first one's result.
    """

    def __init__(self) -> None:
        self._last: tuple[Any, Tensor, tuple[Tensor, Tensor]] | None = None

    def __call__(self, entered: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        key = (entered.data_ptr(), entered.shape, entered.stride(), weight.data_ptr())
        if self._last is None or self._last[0] != key:
            # `entered` is kept so that no other tensor can come to lie at its address
            self._last = (key, entered, _channels_last(entered, weight, bias))
        return self._last[2]

    def causal_conv1d_fn(
        self, hidden_states: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, **_: Any
    ) -> Tensor:
        """Stands in for transformers' function: hidden_states [batch, channels, seq], weight [channels, kernel]."""
        pre, out = self(hidden_states.transpose(1, 2), weight.unsqueeze(1), bias)
        return {None: pre, "silu": out, "swish": out}[activation].transpose(1, 2)


def _channels_last(entered: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    if weight.dtype not in (torch.float32, torch.bfloat16):  # oneDNN has no such kernel for the others
        return convolve(entered, weight, bias)
    padded = F.pad(entered.to(weight.dtype), (0, 0, weight.shape[-1] - 1, 0))
    image = padded.transpose(1, 2).unsqueeze(2)  # [batch, channels, 1, seq], channels adjacent in memory
    pre = F.conv2d(image, weight.unsqueeze(2), bias, groups=weight.shape[0]).squeeze(2).transpose(1, 2)
    return pre, F.silu(pre)
