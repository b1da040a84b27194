"""What every way of counting must find, by operations of torch, on tensors that are easily got wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CHANNELS = (1, 37, 2048, 4101)  # less than a stretch, not a multiple of one, the edges of others
ORDERS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda x: x,
    "transposed": lambda x: x.mT.contiguous().mT,
    "a slice of something wider": lambda x: torch.cat([x, x, x, x, x], -1)[..., 3 : 3 + x.shape[-1]],
    "every other channel": lambda x: torch.stack([x, x], -1).flatten(-2)[..., ::2],
}


def bin_codes(x: Tensor) -> Tensor:
    """The bin of every value of a bf16, fp16 or fp32 tensor, int64, in the order of its indices."""
    pattern = x.to(torch.float16) if x.dtype is torch.float32 else x
    return pattern.contiguous().view(torch.uint16).cpu().to(torch.int64).flatten()


def observe(module: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Finite texts, counts, and of every channel low, high, sum and largest mean of a text, by `module.tally`."""
    parts, channels = module.PARTS, x.shape[-1]
    low = torch.full((parts, channels), torch.inf, device=x.device)
    counts = torch.ones(65_536, dtype=torch.int32, device=x.device)
    kept = counts, low, -low, torch.zeros_like(low, dtype=torch.float64), torch.zeros_like(low)
    finite = torch.cat([module.tally(some, *kept) for some in x.split([1, len(x) - 1])])
    _, low, high, sums, means = kept
    return tuple(t.cpu() for t in (finite, counts - 1, low.amin(0), high.amax(0), sums.sum(0), means.amax(0)))


def check_values(module: Any, dtype: torch.dtype, channels: int, order: str, device: str = "cpu") -> None:
    """Eleven texts, more than a kernel has parts; as many tokens as fill no tile; twelve decades and both zeros."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(11, 35, channels, generator=generator) * torch.logspace(-8, 4, 35)[:, None]
    x[0, 0, 0], x[1, 1, -1] = 0.0, -0.0
    if dtype is torch.float32:
        x[2, 0, 0], x[2, 1, -1] = 1e6, -1e6  # infinite as float16
    x = ORDERS[order](x.to(dtype).to(device))
    finite, counts, low, high, sums, means = observe(module, x)
    values = x.cpu().double()
    assert finite.all()
    assert torch.equal(counts, torch.bincount(bin_codes(x), minlength=65_536).int())
    assert torch.equal(low.double(), values.amin((0, 1)))
    assert torch.equal(high.double(), values.amax((0, 1)))
    totals = values.abs().sum(1)
    torch.testing.assert_close(sums, totals.sum(0), rtol=1e-5, atol=0)  # of a text in float32
    torch.testing.assert_close(means.double(), totals.amax(0) / 35, rtol=1e-5, atol=0)


def check_not_finite(module: Any, dtype: torch.dtype, device: str = "cpu") -> None:
    """Texts with a NaN or an infinity are told from those whose sum alone is infinite."""
    finite = observe(module, not_finite(dtype, device))[0]
    assert finite.tolist() == [i not in (1, 2, 8) for i in range(9)]


def not_finite(dtype: torch.dtype, device: str = "cpu") -> Tensor:
    """Nine texts, of which numbers 1, 2 and 8 hold a NaN or an infinity, and all have infinite sums."""
    x = torch.full((9, 4, 5), 3e38 if dtype is not torch.float16 else 6e4)
    x[1, 3, 4], x[2, 0, 0], x[8, 2, 1] = torch.nan, torch.inf, -torch.inf
    return x.to(dtype).to(device)
