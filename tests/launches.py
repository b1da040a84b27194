"""What one launch must find that counts several sites, on a CUDA device or in numba's simulator."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from sweep.calibration import count_cuda
from sweep.calibration.count_cuda import Row
from tests.tallies import ORDERS, bin_codes, check_values, not_finite


def empty(x: Tensor, texts_before: int = 0) -> Row:
    """A site that has seen nothing yet, and x, which it is about to see."""
    low = torch.full((count_cuda.PARTS, x.shape[-1]), torch.inf, device=x.device)
    counts = torch.zeros(65_536, dtype=torch.int64, device=x.device)
    sums, strange = torch.zeros_like(low, dtype=torch.float64), count_cuda.none_strange(x.device)
    return Row(x, counts, low, -low, sums, torch.zeros_like(low), strange, texts_before)


def tally(x: Tensor, counts: Tensor, low: Tensor, high: Tensor, abs_sum: Tensor, text_mean: Tensor) -> Tensor:
    """One site by itself, as `sweep.calibration.count_cpu.tally` counts it."""
    long, strange = counts.long(), count_cuda.none_strange(x.device)
    count_cuda.count([Row(x, long, low, high, abs_sum, text_mean, strange, 0)])
    counts.copy_(long)
    return torch.arange(len(x), device=x.device) < strange


ALONE = SimpleNamespace(PARTS=count_cuda.PARTS, tally=tally)


def check_one_site(dtype: torch.dtype, channels: int, order: str, device: str = "cpu") -> None:
    check_values(ALONE, dtype, channels, order, device)


def check_hook(dtype: torch.dtype, device: str = "cpu") -> None:
    """x, B and C as slices of one tensor in place, beside a site with other shapes, and an empty one."""
    generator = torch.Generator().manual_seed(1)
    joint = (torch.randn(5, 33, 90, generator=generator) * torch.logspace(-6, 3, 33)[:, None]).to(dtype).to(device)
    other = torch.randn(2, 70, 7, generator=generator).to(dtype).to(device)
    tensors = [*joint.split([66, 12, 12], -1), other, other[:0], ORDERS["every other channel"](other)]
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
        x = x[: len(x) // 64 * 64].reshape(1, -1, 64).to(device)
        count_cuda.count([row := empty(x)])
        assert torch.equal(row.counts.cpu(), torch.bincount(bin_codes(x), minlength=65_536))
        assert row.strange.item() == count_cuda._NONE


def check_strange(dtype: torch.dtype, device: str = "cpu") -> None:
    """The first text that is not finite is told, by its number in the fold."""
    x = not_finite(dtype, device)
    for keep, first in ((slice(None), 11), (slice(2, None), 10), (slice(3, None), 15), (slice(3, 8), None)):
        row = empty(x[keep], texts_before=10)
        count_cuda.count([row])
        assert row.strange.item() == (count_cuda._NONE if first is None else first), (dtype, keep)


def check_long_texts(device: str = "cpu") -> None:
    """Sums of long texts are of stretches; the window is emptied before its counters overflow."""
    x = (torch.rand(2, 1003, 3, generator=torch.Generator().manual_seed(0)) + 3).to(device)
    stretch, most = count_cuda.STRETCH, count_cuda.MOST
    try:
        count_cuda.STRETCH, count_cuda.MOST = 100, 64 * 250
        count_cuda.count([row := empty(x)])
    finally:
        count_cuda.STRETCH, count_cuda.MOST = stretch, most
    assert torch.equal(row.counts.cpu(), torch.bincount(bin_codes(x), minlength=65_536))
    exact = x.double().sum(1).cpu()
    torch.testing.assert_close(row.abs_sum.cpu().sum(0), exact.sum(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(row.text_mean.cpu().amax(0).double(), exact.amax(0) / 1003, rtol=1e-6, atol=0)
