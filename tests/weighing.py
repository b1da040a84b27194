"""What the summed squares of gradients must be that one launch finds, on a CUDA device or in numba's simulator."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

from sweep.calibration import count_cpu, weigh_cuda
from sweep.calibration.weigh_cuda import Weighed
from tests.tallies import ORDERS, bin_codes

LAST_PLACE = 2.0**-52  # of a float64
MOST = 65_536  # bins of a site


def empty(x: Tensor, g: Tensor) -> Weighed:
    """A site that has met nothing yet, and what it is about to; float32's bins are four codes wide, as in a fold."""
    bins = min(16_384 if x.dtype is torch.float32 else 65_536, MOST)
    sums = torch.zeros(bins, dtype=torch.float64, device=x.device)
    return Weighed(x, g, sums, torch.zeros(1, dtype=torch.int64, device=x.device))


def exact(x: Tensor, g: Tensor, bins: int) -> Tensor:
    """The sums of g^2 by the bins of x, each correctly rounded."""
    squares: defaultdict[int, list[float]] = defaultdict(list)
    for code, value in zip(bin_codes(x).tolist(), g.cpu().float().flatten().tolist(), strict=True):
        squares[code * bins // 65_536].append(value * value)  # exact: 24 bits times 24
    sums = torch.zeros(bins, dtype=torch.float64)
    for code, own in squares.items():
        sums[code] = math.fsum(own)
    return sums


def check_sums(rows: list[Weighed], times: int = 1) -> None:
    """Exact ones, those of the CPU too, and nothing else was changed."""
    for row in rows:
        expected, sums = exact(row.x, row.g, len(row.sums)) * times, row.sums.cpu()
        torch.testing.assert_close(sums, expected, rtol=times * LAST_PLACE, atol=0)
        on_cpu = torch.zeros_like(sums)
        for _ in range(times):
            assert count_cpu.weigh(row.x.cpu(), row.g.cpu(), on_cpu, 65_536 // len(sums))
        torch.testing.assert_close(sums, on_cpu, rtol=1e-12, atol=0)
        assert row.strange.item() == 0


def check_squares(dtype: torch.dtype, device: str = "cpu") -> None:
    """Odd shapes, strides that differ between values and gradients, dtypes too, and gradients of every size:
    zero, subnormal, and so large that their square is beyond float32."""
    random = torch.Generator().manual_seed(0)
    info = torch.finfo(dtype)
    wide = {torch.float16: 8, torch.bfloat16: 120, torch.float32: 120}[dtype]
    x = torch.randn(3, 17, 23, generator=random) * 3
    g = torch.randn(3, 17, 23, generator=random) * torch.linspace(-wide, wide, 17).exp2()[:, None]
    g[0, 0, :8] = torch.tensor([0.0, -0.0, info.tiny, info.tiny / 2, info.tiny * info.eps, info.max, -info.max, 1.0])
    x[1, 0, :6] = torch.tensor([0.0, -0.0, info.tiny, info.max, -1.0, 1.0])
    x, g = x.to(dtype), g.to(dtype)
    turned = list(ORDERS.values())
    pairs = [(order(x[..., :5]), turned[i - 1](g[..., :5])) for i, order in enumerate(turned)]
    pairs += [(x[:0], g[:0]), (x.float()[..., 11:20], g[..., 11:20]), (x[..., 20:], g.float()[..., 20:])]
    pairs += [(x.float()[:1, :, :2], g[:1, 4:5, :1].expand(1, 17, 2))]
    rows = [empty(own.to(device), slope.to(device)) for own, slope in pairs]
    held = weigh_cuda.digits(len(rows), rows[0].x.device)
    weigh_cuda.weigh(rows, held)
    check_sums(rows)
    assert not held.any()
    weigh_cuda.weigh(rows[:2], held)  # added to what was there, in memory that is used again
    check_sums(rows[:2], times=2)


def check_any_order(device: str = "cpu") -> None:
    """However the values of a sample come, the sums are the same, bit for bit; sums of floats would not be."""
    random = np.random.default_rng(0)
    x = torch.from_numpy(random.integers(1, 4, (1, 300, 2))).bfloat16()
    g = torch.from_numpy(random.standard_normal((1, 300, 2)) * np.exp2(random.integers(-30, 30, (1, 300, 2)))).float()
    reference, on_cpu = None, set()
    for seed in range(3):
        order = torch.randperm(300, generator=torch.Generator().manual_seed(seed))
        row = empty(x[:, order].to(device), g[:, order].to(device))
        weigh_cuda.weigh([row], weigh_cuda.digits(1, row.x.device))
        sums = torch.zeros_like(row.sums, device="cpu")
        count_cpu.weigh(x[:, order], g[:, order], sums, 65_536 // len(sums))
        on_cpu.add(tuple(sums[sums != 0].tolist()))
        assert reference is None or torch.equal(row.sums, reference)
        reference = row.sums
    assert len(on_cpu) > 1


def check_strange(dtype: torch.dtype, device: str = "cpu") -> None:
    """A gradient that is not finite is told, of its site alone."""
    x = torch.ones(1, 9, 4)
    gradients = [torch.full(x.shape, torch.finfo(dtype).max, dtype=dtype) for _ in range(4)]
    for g, value in zip(gradients, (torch.nan, torch.inf, -torch.inf), strict=False):
        g[0, 7, 2] = value
    rows = [empty(x.to(device), g.to(device)) for g in gradients]
    weigh_cuda.weigh(rows, weigh_cuda.digits(4, rows[0].x.device))
    assert [row.strange.item() for row in rows] == [1, 1, 1, 0]
