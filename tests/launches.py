"""What one launch must find that counts several sites, on a CUDA device or in numba's simulator."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from sweep.calibration import count_cuda, cuda_rows
from sweep.calibration.accumulator import SiteFold
from sweep.calibration.cuda_rows import Row
from sweep.models.kernels.conv import Convolved, convolve, lazily
from tests.tallies import ORDERS, bin_codes, check_values, not_finite


def empty(x: Tensor | Convolved, texts_before: int = 0) -> Row:
    """A site that has seen nothing yet, and x, which it is about to see."""
    low = torch.full((cuda_rows.PARTS, x.shape[-1]), torch.inf, device=x.device)
    counts = torch.zeros(65_536, dtype=torch.int64, device=x.device)
    sums = torch.zeros(1, x.shape[-1], dtype=torch.float64, device=x.device)
    strange = cuda_rows.none_strange(x.device)
    kept = counts, low, -low, sums, torch.zeros_like(low), strange, texts_before
    return Row(x.entered, *kept, x) if isinstance(x, Convolved) else Row(x, *kept)


def tally(x: Tensor, counts: Tensor, low: Tensor, high: Tensor, abs_sum: Tensor, text_mean: Tensor) -> Tensor:
    """One site by itself, as `sweep.calibration.count_cpu.tally` counts it."""
    long, strange = counts.long(), cuda_rows.none_strange(x.device)
    count_cuda.count([Row(x, long, low, high, abs_sum, text_mean, strange, 0)])
    counts.copy_(long)
    return torch.arange(len(x), device=x.device) < strange


def check_fold(here: SiteFold, there: SiteFold) -> None:
    """A site's fold that the kernel has observed is the one that the CPU has; texts' quantiles are the caller's."""
    assert np.array_equal(here.histogram.counts, there.histogram.counts)
    assert np.array_equal(here.channel_absmax, there.channel_absmax)
    np.testing.assert_allclose(here.channel_abs_sum, there.channel_abs_sum, rtol=1e-5)
    np.testing.assert_allclose(here.channel_text_mean_max, there.channel_text_mean_max, rtol=1e-5)


ALONE = SimpleNamespace(PARTS=cuda_rows.PARTS, tally=tally)


def check_one_site(dtype: torch.dtype, channels: int, order: str, device: str = "cpu") -> None:
    check_values(ALONE, dtype, channels, order, device)


def check_hook(dtype: torch.dtype, device: str = "cpu") -> None:
    """x, B and C as slices of one tensor in place, beside a site with other shapes, and an empty one."""
    generator = torch.Generator().manual_seed(1)
    widths = count_cuda.CHANNELS + 2, 3, 3
    joint = torch.randn(5, 33, sum(widths), generator=generator) * torch.logspace(-6, 3, 33)[:, None]
    joint = joint.to(dtype).to(device)
    other = torch.randn(2, 70, 7, generator=generator).to(dtype).to(device)
    tensors = [*joint.split(widths, -1), other, other[:0], ORDERS["every other channel"](other)]
    rows = [empty(x) for x in tensors]
    count_cuda.count(rows)
    count_cuda.count(rows)  # added to what was there
    for row, x in zip(rows, tensors, strict=True):
        assert torch.equal(row.counts.cpu(), 2 * torch.bincount(bin_codes(x), minlength=65_536))
        values = x.cpu().double()
        if len(x):
            assert torch.equal(row.low.cpu().amin(0).double(), values.amin((0, 1)))
            assert torch.equal(row.high.cpu().amax(0).double(), values.amax((0, 1)))
        torch.testing.assert_close(row.abs_sum.cpu().sum(0), 2 * values.abs().sum((0, 1)), rtol=1e-5, atol=0)


def check_every_code(device: str = "cpu") -> None:
    """All finite bit patterns of bfloat16 and float16 in one tensor, far outside any window, land in their bins."""
    patterns = torch.arange(65_536, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.bfloat16, torch.float16):
        x = patterns.view(dtype)
        x = x[x.isfinite()]
        x = x.reshape(1, -1, count_cuda.CHANNELS).to(device)
        count_cuda.count([row := empty(x)])
        assert torch.equal(row.counts.cpu(), torch.bincount(bin_codes(x), minlength=65_536))
        assert row.strange.item() == cuda_rows.NOTHING_STRANGE


def check_strange(dtype: torch.dtype, device: str = "cpu") -> None:
    """The first text that is not finite is told, by its number in the fold."""
    x = not_finite(dtype, device)
    for keep, first in ((slice(None), 11), (slice(2, None), 10), (slice(3, None), 15), (slice(3, 8), None)):
        row = empty(x[keep], texts_before=10)
        count_cuda.count([row])
        assert row.strange.item() == (cuda_rows.NOTHING_STRANGE if first is None else first), (dtype, keep)


def check_long_texts(device: str = "cpu") -> None:
    """Sums of long texts are of stretches; the window is emptied before its counters overflow."""
    x = (torch.rand(2, 1003, 3, generator=torch.Generator().manual_seed(0)) + 3).to(device)
    stretch, most = count_cuda.STRETCH, count_cuda.MOST
    try:
        count_cuda.STRETCH, count_cuda.MOST = 100, count_cuda.CHANNELS * 250
        count_cuda.count([row := empty(x)])
    finally:
        count_cuda.STRETCH, count_cuda.MOST = stretch, most
    assert torch.equal(row.counts.cpu(), torch.bincount(bin_codes(x), minlength=65_536))
    exact = x.double().sum(1).cpu()
    torch.testing.assert_close(row.abs_sum.cpu().sum(0), exact.sum(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(row.text_mean.cpu().amax(0).double(), exact.amax(0) / 1003, rtol=1e-6, atol=0)


def check_convolution(dtype: torch.dtype, kernel: int, biased: bool, device: str = "cpu") -> None:
    """Values before and after SiLU are counted without being written: of numbers whose sums are exact, the same bins
    as of torch's own convolution; of any, each within a rounding of what float64 gives. Texts pass in stretches."""
    stretch, count_cuda.STRETCH = count_cuda.STRETCH, 9
    try:
        _check_convolution(dtype, kernel, biased, device)
    finally:
        count_cuda.STRETCH = stretch


def _check_convolution(dtype: torch.dtype, kernel: int, biased: bool, device: str) -> None:
    first = count_cuda.CHANNELS + 1
    for exact in (True, False):
        entered, weight, bias = _convolution(dtype, kernel, exact)
        lazy = lazily(entered.to(device), weight.to(device), bias.to(device) if biased else None)
        pieces = [of_all[..., part] for of_all in lazy for part in (slice(first), slice(first, None))]
        rows = [empty(piece) for piece in pieces]
        count_cuda.count(rows)
        exactly = convolve(entered.double(), weight.double(), bias.double() if biased else None)
        for row, values in zip(
            rows, (piece for of_all in exactly for piece in of_all.split([first, 4], -1)), strict=True
        ):
            rounded = values.to(dtype)
            counts = row.counts.cpu()
            assert int(counts.sum()) == rounded.numel()
            if exact and row.convolution and not row.convolution.silu:
                assert torch.equal(counts, torch.bincount(bin_codes(rounded), minlength=65_536))
            low, high = row.low.cpu().amin(0), row.high.cpu().amax(0)
            step = 2.0 ** {torch.float32: -18, torch.bfloat16: -7, torch.float16: -10}[dtype]
            scale = float(convolve(entered.double().abs(), weight.double().abs(), bias.double().abs())[0].amax())
            for own, its in ((low, values.amin((0, 1))), (high, values.amax((0, 1)))):
                torch.testing.assert_close(own.double(), its, rtol=step, atol=1e-6 * scale)
            torch.testing.assert_close(row.abs_sum.cpu()[0], values.abs().sum((0, 1)), rtol=step, atol=1e-5 * scale)
            _close(counts, rounded, 1e-6 * scale)


def _convolution(dtype: torch.dtype, kernel: int, exact: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What enters, in place in something wider; weights and bias. exact: small integers, else anything."""
    generator = torch.Generator().manual_seed(0)
    channels = count_cuda.CHANNELS + 5
    shapes = (3, 20, 8 + channels), (channels, 1, kernel), (channels,)
    tensors = [
        torch.randint(-3, 4, shape, generator=generator) if exact else torch.randn(shape, generator=generator)
        for shape in shapes
    ]
    wide, weight, bias = (t.to(dtype) for t in tensors)
    return wide[..., 8:], weight, bias


def _close(counts: Tensor, values: Tensor, absolute: float) -> None:
    """Counts in the order of the values they stand for, against values: one by one within a step of their format."""
    wide = torch.float16 if values.dtype is torch.float32 else values.dtype
    patterns = torch.arange(65_536, dtype=torch.int32).to(torch.int16).view(wide).double()
    own = patterns.repeat_interleave(counts).sort().values
    its = values.to(wide).double().flatten().sort().values
    torch.testing.assert_close(own, its, rtol=2.0 ** (-7 if wide is torch.bfloat16 else -10), atol=absolute)


def check_special(dtype: torch.dtype, device: str = "cpu") -> None:
    """Values of every class, the smallest and the largest of each, in the bins that torch's rounding gives them."""
    info = torch.finfo(dtype)
    least = 2.0 ** {torch.float32: -149, torch.bfloat16: -133, torch.float16: -24}[dtype]  # subnormal
    values = [0.0, least, 3 * least, info.tiny - least, info.tiny, 1.0, 1 + info.eps, 65504.0, info.max, torch.inf]
    if dtype is torch.float32:  # to either side of where float16 rounds: subnormals to 0 or not, to infinity or not
        values += [2.0**-25, 2.0**-25 + 2.0**-48, 2.0**-24, 65519.0, 65520.0, 1 + 2.0**-11, 1 + 3 * 2.0**-11]
    x = torch.tensor([*values, *(-v for v in values)], dtype=dtype)[None, :, None].expand(2, -1, 3).contiguous()
    row = empty(x.to(device))
    count_cuda.count([row])
    assert torch.equal(row.counts.cpu(), torch.bincount(bin_codes(x), minlength=65_536))
    assert row.counts[0] >= 6
    assert row.counts[32768] >= 6  # zeros keep their sign
    assert row.strange.item() == 0
    assert row.low.cpu().amin() == -torch.inf
    nan = torch.ones(2, 4, 3, dtype=dtype)
    nan[1, 2, 1] = torch.nan
    count_cuda.count([row := empty(nan.to(device))])
    assert row.strange.item() == 1
    assert int(row.counts.sum()) == nan.numel()
    assert int(row.counts[bin_codes(nan[:1, :1, :1])]) == nan.numel() - 1


def check_overlapping(device: str = "cpu") -> None:
    """Tensors that read a value several times, and blocks of one site whose windows of bins overlap in part."""
    generator = torch.Generator().manual_seed(0)
    long = torch.randn(3, 40, 9, generator=generator).bfloat16().to(device)
    tensors = [
        long.unfold(1, 12, 4).movedim(-1, 1).flatten(2, 3)[:2],
        long[:, :1].expand(3, 11, 9),
        long[:1].expand(5, 40, 9),
        long.as_strided((2, 20, 6), (9, 4, 1)),
    ]
    half = count_cuda.CHANNELS // 2 + 3
    octaves = 2.0 ** torch.tensor([0, 35]).repeat_interleave(half)  # bfloat16's window has room for 40, float16's for 5
    tensors += [(torch.randn(3, 21, 2 * half, generator=generator) * octaves).bfloat16()]
    tensors += [
        (torch.randn(6, 21, 2 * half, generator=generator) * 2.0 ** torch.arange(-9, 9, 3)[:, None, None]).half()
    ]
    tensors[-2:] = [x.to(device) for x in tensors[-2:]]
    rows = [empty(x) for x in tensors]
    count_cuda.count(rows)
    for row, x in zip(rows, tensors, strict=True):
        assert torch.equal(row.counts.cpu(), torch.bincount(bin_codes(x), minlength=65_536))
        torch.testing.assert_close(row.abs_sum.cpu()[0], x.cpu().double().abs().sum((0, 1)), rtol=1e-5, atol=0)


def check_sums_go_on(device: str = "cpu") -> None:
    """The sum of |x| after some texts is all that those after them need, however they are cut into launches."""
    octaves = torch.arange(9) * 29 % 60 - 30  # so far apart that float64 rounds the sums of texts
    x = torch.randn(9, 17, count_cuda.CHANNELS + 1, generator=torch.Generator().manual_seed(0))
    x = (x * 2.0 ** octaves[:, None, None]).to(device)
    count_cuda.count([whole := empty(x)])
    for cuts in ([5, 4], [2, 4, 3], [1] * 9):
        total = torch.zeros(1, x.shape[-1], dtype=torch.float64, device=device)
        for part in x.split(cuts):
            row = empty(part)
            row.abs_sum.copy_(total)
            count_cuda.count([row])
            total = row.abs_sum
        assert torch.equal(total, whole.abs_sum)
    count_cuda.count([turned := empty(x.flip(0))])
    assert not torch.equal(turned.abs_sum, whole.abs_sum)
