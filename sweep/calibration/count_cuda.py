"""What the observer does on a CUDA device, in a kernel of Triton's: every value is loaded once.

A program has a stretch of channels and every PARTS-th text to itself, and runs through its tokens in order: its
extremes and sums are its own, so their rounding does not depend on which program is faster. Counts are integers, and
atomic: the order of additions cannot show. What limits them is that activations share a few hundred bins, and that
additions to one address wait for each other. So there are COPIES of the table, which programs use in turn.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

PARTS = 8
COPIES = 16
TOKENS, CHANNELS = 32, 64  # that a program holds in its registers
_BINS = tl.constexpr(65_536)


@triton.jit  # type: ignore[untyped-decorator]
def _count(  # type: ignore[no-untyped-def]
    x, tables, low, high, abs_sum, text_mean, strange,
    texts, tokens, channels, text_stride, token_stride,
    PARTS: tl.constexpr, COPIES: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    block, part = tl.program_id(0), tl.program_id(1)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    own = part * channels + channel
    table = tables + (block + part * tl.num_programs(0)) % COPIES * _BINS
    least = tl.full([TOKENS, CHANNELS], float("inf"), tl.float32)
    most = tl.full([TOKENS, CHANNELS], float("-inf"), tl.float32)
    summed = tl.load(abs_sum + own, mask=inside, other=0.0)
    largest = tl.load(text_mean + own, mask=inside, other=0.0)
    for text in range(part, texts, PARTS):
        begin = x + (tl.zeros([1, 1], tl.int64) + text) * text_stride  # 32 bits need not do
        total = tl.zeros([TOKENS, CHANNELS], tl.float32)
        bad = tl.zeros([TOKENS, CHANNELS], tl.int32)
        for start in range(0, tokens, TOKENS):
            token = start + tl.arange(0, TOKENS)
            mask = (token < tokens)[:, None] & inside[None, :]
            given = tl.load(begin + token.to(tl.int64)[:, None] * token_stride + channel[None, :], mask=mask, other=0.0)
            half = given.to(tl.float16) if given.dtype == tl.float32 else given
            code = half.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
            tl.atomic_add(table + code, 1, mask=mask, sem="relaxed")
            value = given.to(tl.float32)
            least = tl.minimum(least, tl.where(mask, value, float("inf")))
            most = tl.maximum(most, tl.where(mask, value, float("-inf")))
            total += tl.abs(value)
            bad |= (value - value != 0).to(tl.int32)
        sums = tl.sum(total, 0)
        summed += sums.to(tl.float64)
        largest = tl.maximum(largest, sums / tokens)
        tl.atomic_max(strange + text, tl.max(tl.max(bad, 1), 0), sem="relaxed")
    tl.store(low + own, tl.minimum(tl.load(low + own, mask=inside), tl.min(least, 0)), mask=inside)
    tl.store(high + own, tl.maximum(tl.load(high + own, mask=inside), tl.max(most, 0)), mask=inside)
    tl.store(abs_sum + own, summed, mask=inside)
    tl.store(text_mean + own, largest, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _collect(tables, counts, COPIES: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    bins = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    total = tl.load(counts + bins)
    for copy in tl.static_range(COPIES):
        total += tl.load(tables + copy * _BINS + bins)
        tl.store(tables + copy * _BINS + bins, tl.zeros([WIDTH], tl.int32))
    tl.store(counts + bins, total)


@cache
def _tables(device: torch.device) -> Tensor:
    """4 MiB, zero between two calls; the sites of a device follow one another in its stream."""
    return torch.zeros(COPIES, _BINS.value, dtype=torch.int32, device=device)


def tally(x: Tensor, counts: Tensor, low: Tensor, high: Tensor, abs_sum: Tensor, text_mean: Tensor) -> Tensor:
    """As `sweep.calibration.count_cpu.tally`, without waiting for the device; low, high, abs_sum and text_mean are [PARTS, channels],
    the extremes, sums and maxima of some of the texts each. counts: int32 [65536]."""
    texts, tokens, channels = x.shape
    if x.stride(2) != 1:
        x = x.contiguous()
    strange = torch.zeros(texts, dtype=torch.int32, device=x.device)
    tables = _tables(x.device)
    try:
        with torch.cuda.device(x.device if x.is_cuda else -1):  # Triton launches on the current one
            _count[triton.cdiv(channels, CHANNELS), min(texts, PARTS)](
                x, tables, low, high, abs_sum, text_mean, strange,
                texts, tokens, channels, x.stride(0), x.stride(1),
                PARTS, COPIES, TOKENS, CHANNELS,
            )  # fmt: skip
            _collect[_BINS.value // 1024,](tables, counts, COPIES, 1024)
    except BaseException:
        _tables.cache_clear()  # they may hold what was not collected
        raise
    return strange == 0
