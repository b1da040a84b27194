"""Sums of squared gradients on a CUDA device: exact integers, so that the order of additions cannot show.

Blocks of threads come to a bin in another order each time, and sums of floats would show it. So the square of a
gradient, 48 bits anywhere between 2^-298 and 2^256, is added as an integer: cut into digits of 32 bits, each added to
that digit of its bin, in 64 bits, which hold 2^31 of them. When a hook's values are in, `_settle` makes a float64 of
each bin's digits, within one unit in its last place of the exact sum, and adds it to the fold's.

A fold's sum is thus the sum of its samples' exact ones, each rounded once, in the order of the samples: the same bit
for bit however blocks are scheduled, a fold is interrupted or folds are dealt out. The CPU adds value after value in
float64 (`count_cpu.weigh`): of n values in a bin the two differ by n x 2^-53 of the sum at most, by sqrt(n) x 2^-53 as
a rule.

The bin is found as the counts' is. There is no window in shared memory: one sample passes at a time, and a hook's
values are a million, of which one in some hundred shares a bin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numba import cuda
from torch import Tensor

from sweep.calibration.cuda_launch import LIKE, launch, placed, there
from sweep.calibration.cuda_words import array_at, bits_of, code_of, value_of
from sweep.quantization.bins import BINS

THREADS = 256
EACH = 16  # values of a thread
BLOCKS = 256  # at most, that go through the bins of a row
DIGITS = 18  # of 32 bits each, the first of which counts 2^-298: the square of the least float32, 2^-149
_LEAST = 2.0**-298

# columns of the table
_BLOCK, _X, _X_STRIDES, _G, _G_STRIDES, _SHAPE, _SUMS, _DIGITS, _STRANGE, _WIDTH = 0, 1, 2, 5, 6, 9, 12, 13, 14, 15
COLUMNS = 16


@dataclass(frozen=True, eq=False)
class Weighed:
    """Values x and their gradients g [texts, tokens, channels] of a site, and what the squares are added to: sums
    float64 [65536 / width], width codes to a bin; strange int64 [1], 1 as soon as a gradient is not finite."""

    x: Tensor
    g: Tensor
    sums: Tensor
    strange: Tensor

    @property
    def blocks(self) -> int:
        return -(-self.x.numel() // (THREADS * EACH))

    def words(self, first_block: int, digits: int) -> list[int]:
        """This site's row of the launch table. digits: the address of its zeros, int64 [DIGITS, 65536 / width]."""
        return [
            *(first_block, *placed(self.x), *placed(self.g), *self.x.shape),
            *(self.sums.data_ptr(), digits, self.strange.data_ptr(), BINS // len(self.sums)),
        ]


@cuda.jit(device=True)
def _row_of(table, rows, block):  # type: ignore[no-untyped-def]
    """The place in the table at which a block's row begins."""
    row = np.int64(0)
    while row + 1 < rows and table[(row + 1) * COLUMNS + _BLOCK] <= block:
        row += 1
    return row * COLUMNS


@cuda.jit(device=True)
def _place(table, row, strides, at):  # type: ignore[no-untyped-def]
    """The offset in memory of value number `at` of a tensor, counted in the order of its indices."""
    tokens, channels = table[row + _SHAPE + 1], table[row + _SHAPE + 2]
    text, token, channel = at // (tokens * channels), at // channels % tokens, at % channels
    return text * table[row + strides] + token * table[row + strides + 1] + channel * table[row + strides + 2]


@cuda.jit(device=True)
def _span(table, row, strides):  # type: ignore[no-untyped-def]
    """The number of values in memory from a tensor's first to its last."""
    return _place(table, row, strides, table[row + _SHAPE] * table[row + _SHAPE + 1] * table[row + _SHAPE + 2] - 1) + 1


@cuda.jit
def _weigh(address, rows, like, g_like):  # type: ignore[no-untyped-def]
    table = array_at(address, rows * COLUMNS, np.int64(0))
    block = np.int64(cuda.blockIdx.x)
    row = _row_of(table, rows, block)
    x = array_at(table[row + _X], _span(table, row, _X_STRIDES), like)
    g = array_at(table[row + _G], _span(table, row, _G_STRIDES), g_like)
    width = table[row + _WIDTH]
    bins = BINS // width
    digits = array_at(table[row + _DIGITS], DIGITS * bins, np.int64(0))
    values = table[row + _SHAPE] * table[row + _SHAPE + 1] * table[row + _SHAPE + 2]
    begin = (block - table[row + _BLOCK]) * THREADS * EACH + np.int64(cuda.threadIdx.x)
    for at in range(begin, min(begin + THREADS * EACH, values), THREADS):
        gradient = value_of(bits_of(g[_place(table, row, _G_STRIDES, at)]), g_like)
        pattern = np.int64(bits_of(gradient))
        exponent, mantissa = pattern >> 23 & 0xFF, pattern & 0x7FFFFF
        if exponent == 0xFF:
            cuda.atomic.max(array_at(table[row + _STRANGE], np.int64(1), np.int64(0)), 0, np.int64(1))
        elif exponent != 0 or mantissa != 0:
            if exponent != 0:
                mantissa += 0x800000
                exponent -= 1
            square = mantissa * mantissa  # times 2^(2 exponent - 298)
            first, shift = exponent * 2 // 32, exponent * 2 % 32
            code = np.int64(code_of(bits_of(x[_place(table, row, _X_STRIDES, at)]), like))
            place = first * bins + code // width
            low = (square & 0xFFFFFFFF) << shift
            high = ((square >> 32) << shift) + (low >> 32)
            if low & 0xFFFFFFFF != 0:
                cuda.atomic.add(digits, place, low & 0xFFFFFFFF)
            if high & 0xFFFFFFFF != 0:
                cuda.atomic.add(digits, place + bins, high & 0xFFFFFFFF)
            if high >> 32 != 0:
                cuda.atomic.add(digits, place + 2 * bins, high >> 32)


@cuda.jit
def _settle(address, rows, stride):  # type: ignore[no-untyped-def]
    """Add every bin's digits to its sum, and clear them; a thread has every stride-th bin of each row."""
    table = array_at(address, rows * COLUMNS, np.int64(0))
    begin = np.int64(cuda.blockIdx.x) * THREADS + np.int64(cuda.threadIdx.x)
    for number in range(rows):
        row = number * COLUMNS
        bins = BINS // table[row + _WIDTH]
        digits = array_at(table[row + _DIGITS], DIGITS * bins, np.int64(0))
        sums = array_at(table[row + _SUMS], bins, np.float64(0))
        for own in range(begin, bins, stride):
            carry, total, unit = np.int64(0), np.float64(0), np.float64(_LEAST)
            for digit in range(DIGITS):
                here = digits[digit * bins + own]
                if here != 0:
                    digits[digit * bins + own] = 0
                if here != 0 or carry != 0:
                    carry += here
                    total += np.float64(carry & 0xFFFFFFFF) * unit  # the product is exact
                    carry >>= 32
                unit *= np.float64(4294967296)
            total += np.float64(carry) * unit
            if total != 0:
                sums[own] += total


def digits(rows: int, device: torch.device) -> Tensor:
    """Work space of `weigh` for `rows` rows: zeros, and zeros again when it is done."""
    return torch.zeros(rows, DIGITS, BINS, dtype=torch.int64, device=device)


def weigh(rows: Sequence[Weighed], held: Tensor) -> None:
    """Add the squares of all rows' gradients to their sums. They lie on one device; the current stream of torch is the
    one that computes. held: of `digits`, for as many rows at least; a site is in one row only."""
    for kinds in dict.fromkeys((row.x.dtype, row.g.dtype) for row in rows):
        those = [row for row in rows if (row.x.dtype, row.g.dtype) == kinds and row.x.numel()]
        if not those:
            continue
        words: list[int] = []
        blocks = 0
        for row, own in zip(those, held, strict=False):
            words += row.words(blocks, own.data_ptr())
            blocks += row.blocks
        table = there(words, held.device)
        given = table.data_ptr(), len(those)
        launch(_weigh, blocks, THREADS, held.device, *given, *(LIKE[dtype] for dtype in kinds))
        blocks = min(-(-max(len(row.sums) for row in those) // THREADS), BLOCKS)
        launch(_settle, blocks, THREADS, held.device, *given, blocks * THREADS)
