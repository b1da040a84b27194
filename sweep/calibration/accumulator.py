"""The dense counts and sums of one site in one fold, as tensors on the device that its values are on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sweep.calibration import counting, cuda_rows
from sweep.calibration.text_quantiles import text_quantiles
from sweep.models.kernels.conv import Convolved
from sweep.quantization.bins import BFLOAT16, BINS, FLOAT16, FLOAT32
from sweep.quantization.histogram import Histogram

MOST = 2**31 - 1  # values that 32-bit counts hold in any case
STRETCH = 4096  # tokens of a text that are summed in float32; of longer ones the sums of stretches are, in float64
Sums = NDArray[np.float64]
LAYOUTS = {torch.bfloat16: BFLOAT16, torch.float16: FLOAT16, torch.float32: FLOAT32}


@dataclass(frozen=True, eq=False)
class SiteFold:
    """A finished fold of one site; the arrays are those of `SiteStatistics` without their fold axis."""

    histogram: Histogram
    channel_absmax: NDArray[np.float32]
    channel_abs_sum: NDArray[np.float64]
    channel_text_mean_max: NDArray[np.float32]
    text_alphas: NDArray[np.float64]
    text_quantiles: NDArray[np.float64]


def scaled(x: Tensor, shift: int) -> Tensor:
    """x times 2^shift, in two steps: the factor itself may be beyond float32."""
    return x * 2.0 ** (shift // 2) * 2.0 ** (shift - shift // 2) if shift else x


@dataclass(eq=False)
class Accumulator:
    """Running statistics of one site in one fold; all but `quantiles` is of the values times 2^shift.

    quantiles: of each text, float64 [batch, A, 3] for each batch. counts: int64 [BINS]; recent: int32 [BINS], what a
    CPU counts first, to be added to `counts`, and held: the number of values in it. low, high, text_mean: float32
    [parts, channels], abs_sum: float64 [1, channels]. texts: how many there were, and strange: int64 [1], the least
    number of one that is not finite; both on CUDA devices only.

    These fields are what a checkpoint holds: whoever changes them raises `observer.VERSION`."""

    dtype: torch.dtype
    alphas: tuple[float, ...]
    shift: int
    counts: Tensor
    recent: Tensor
    low: Tensor
    high: Tensor
    abs_sum: Tensor
    text_mean: Tensor
    quantiles: list[Tensor]
    strange: Tensor | None
    held: int = 0
    texts: int = 0

    @classmethod
    def begin(cls, x: Tensor, alphas: tuple[float, ...], shift: int, abs_sum: Sums | None) -> Accumulator:
        """An accumulator without values, for tensors of the shape, dtype and device of x [batch, seq, channels].
        abs_sum: the sums of |x| to start from."""
        parts, channels, device = counting.parts(x), x.shape[-1], x.device
        at_once = counting.in_one_launch(x)
        begun = torch.zeros(1, channels, dtype=torch.float64, device=device)
        if abs_sum is not None:
            begun[0] = torch.from_numpy(abs_sum * 2.0**shift)
        return cls(
            dtype=x.dtype,
            alphas=alphas,
            shift=shift,
            counts=torch.zeros(BINS, dtype=torch.int64, device=device),
            recent=torch.zeros(0 if at_once else BINS, dtype=torch.int32, device=device),
            low=torch.full((parts, channels), torch.inf, device=device),
            high=torch.full((parts, channels), -torch.inf, device=device),
            abs_sum=begun,
            text_mean=torch.zeros(parts, channels, device=device),
            quantiles=[],
            strange=cuda_rows.none_strange(device) if at_once else None,
        )

    def state_dict(self) -> dict[str, Any]:
        """All fields by name: tensors and plain values."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Accumulator:
        """Raises ValueError where the fields are not those of this version."""
        names = {field.name for field in fields(cls)}
        if state.keys() != names:
            raise ValueError(f"a site's state has other fields: {', '.join(sorted(state.keys() ^ names))}")
        return cls(**state)

    def add(self, x: Tensor) -> Tensor:
        """Observe x [batch, seq, channels]; returns whether each text was all finite, bool [batch]."""
        x = self._prepared(x)
        if x.shape[1] > STRETCH or x.numel() > MOST:
            return torch.cat([self._long(text) for text in torch.split(x, 1)])
        return self._count(x)

    def _prepared(self, x: Tensor) -> Tensor:
        """The values to be counted, after the quantiles of their texts were taken."""
        if self.alphas:
            self.quantiles.append(text_quantiles(x, self.alphas))
        return scaled(x, self.shift)

    def row(self, x: Tensor | Convolved) -> cuda_rows.Row:
        """The row by which a launch of `sweep.calibration.count_cuda` observes x [batch, seq, channels]."""
        assert self.strange is not None  # as wherever sites are counted in one launch
        kept = self.counts, self.low, self.high, self.abs_sum, self.text_mean, self.strange
        before, self.texts = self.texts, self.texts + len(x)
        if isinstance(x, Tensor):
            return cuda_rows.Row(self._prepared(x), *kept, before)
        return cuda_rows.Row(x.entered, *kept, before, x)

    def _long(self, text: Tensor) -> Tensor:
        """Observe a text [1, seq, channels] stretch by stretch, so that neither its counts nor its sums go astray."""
        tokens, channels = text.shape[1:]
        largest, mean = self.text_mean, torch.zeros(channels, dtype=torch.float64, device=text.device)
        finite = torch.ones(1, dtype=torch.bool, device=text.device)
        for part in torch.split(text, max(1, min(STRETCH, MOST // channels)), 1):
            self.text_mean = torch.zeros_like(largest)
            finite &= self._count(part)
            mean += self.text_mean.amax(0).double() * part.shape[1] / tokens
        self.text_mean = largest
        largest[0] = torch.maximum(largest[0], mean.float())
        return finite

    def _count(self, x: Tensor) -> Tensor:
        if self.held + x.numel() > MOST:
            self._carry()
        self.held += x.numel()
        kept = self.recent, self.low, self.high, self.abs_sum, self.text_mean
        from sweep.calibration import count_cpu

        finite: Tensor = count_cpu.tally(x, *kept)
        return finite

    def _carry(self) -> None:
        if self.held:
            self.counts += self.recent
            self.recent.zero_()
            self.held = 0

    def finish(self) -> SiteFold:
        """The fold's statistics as arrays, of the unscaled values."""
        self._carry()
        back = 2.0**-self.shift
        histogram = Histogram.from_dense(
            LAYOUTS[self.dtype].times(self.shift),
            self.counts.cpu().numpy(),
            float(self.low.min()) * back,
            float(self.high.max()) * back,
        )
        largest = torch.maximum(self.low.amin(0).abs(), self.high.amax(0).abs())
        quantiles = torch.cat(self.quantiles).cpu().numpy() if self.alphas else np.zeros((0, 0, 3))
        absmax, total, mean = (t.cpu().numpy() for t in (largest, self.abs_sum.sum(0), self.text_mean.amax(0)))
        absmax, mean = ((a * back).astype(np.float32) for a in (absmax.astype(np.float64), mean.astype(np.float64)))
        return SiteFold(histogram, absmax, total * back, mean, np.array(self.alphas, np.float64), quantiles)
