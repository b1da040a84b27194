"""What the observer does on a CUDA device: all sites that a hook observes, in one launch.

A launch reads a table with a row for each site: where its values lie and with which strides, and where its
accumulators lie. x, B and C are counted in the tensor that they are slices of. A block of threads has a stretch of
channels of one site and every PARTS-th text to itself, and runs through their tokens in order: its extremes and sums
are its own, so their rounding does not depend on which block is faster. Counts are integers: the order of additions
cannot show.

Activations share a few hundred bins, and additions to one address wait for each other. So a block counts in its own
shared memory, in a window of 2 x SPAN bins, and adds that to the site's counts when it is done. The window ends an
octave above the largest of some first values of the block, and begins 40 octaves (bfloat16) or 5 (float16, by whose
patterns float32 is counted, too) below its end; zeros have bins of their own in it. What falls outside is counted in
global memory at once. Where the window lies costs time, never correctness.

Compiled by numba-cuda, NVIDIA's target for numba: it has shared arrays and atomic additions to them, which Triton has
not; a simulator that runs the same source on a CPU, thread by thread, for tests; and it compiles to PTX without a GPU.
CUDA C by NVRTC would have had none but the first. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numba import cuda
from torch import Tensor

from sweep.calibration.cuda_words import REGISTERS, array_at, bits_of, code_of, value_of

PARTS = 8
CHANNELS, ROWS = 64, 4  # of a block's threads: so many channels side by side, so many tokens at once
AHEAD = 8  # values that a thread loads before it looks at the first
STRETCH = 4096  # tokens of a text that are summed in float32; the sums of stretches are, in float64
MOST = 2**31 - 1  # that a counter of the window holds
SPAN = 5120  # bins of the window on either side of zero: with both zeros 40,968 bytes
_WINDOW = 2 + 2 * SPAN
_THREADS = CHANNELS * ROWS
_NONE = 2**62  # first strange text of a site without any

# what numba reads a dtype from: the type of such a value; float16 goes by int16, bfloat16 by uint16, as on the CPU
_LIKE = {torch.float32: np.float32(0), torch.float16: np.int16(0), torch.bfloat16: np.uint16(0)}
_MANTISSA = {torch.float32: 10, torch.float16: 10, torch.bfloat16: 7}  # bits below the exponent of a bin code


@dataclass(frozen=True, eq=False)
class Row:
    """A tensor x [texts, tokens, channels] of a site, and what it is added to: counts int64 [65536]; low, high,
    text_mean float32 and abs_sum float64 [PARTS, channels]; strange int64 [1], the least number of a text that holds a
    NaN or an infinity, where the first text of x has the number `texts_before`."""

    x: Tensor
    counts: Tensor
    low: Tensor
    high: Tensor
    abs_sum: Tensor
    text_mean: Tensor
    strange: Tensor
    texts_before: int

    @property
    def blocks(self) -> int:
        return -(-self.x.shape[2] // CHANNELS) * min(self.x.shape[0], PARTS)

    def words(self, first_block: int) -> list[int]:
        """Its row of the table, in the order of the constants below."""
        kept = (self.counts, self.low, self.high, self.abs_sum, self.text_mean, self.strange)
        return [
            *(first_block, self.x.data_ptr()),
            *(self.x.stride() if self.x.numel() else (0, 0, 0)),
            *self.x.shape,
            *(tensor.data_ptr() for tensor in kept),
            self.texts_before,
        ]


# columns of the table
_BLOCK, _X, _TEXT_STRIDE, _TOKEN_STRIDE, _CHANNEL_STRIDE, _TEXTS, _TOKENS, _WIDTH = range(8)
_COUNTS, _LOW, _HIGH, _ABS_SUM, _TEXT_MEAN, _STRANGE, _BEFORE = range(8, 15)
COLUMNS = 15


@cuda.jit(device=True)
def _slot(code, floor):  # type: ignore[no-untyped-def]
    """The place of a bin code in the window, -1 if it has none."""
    sign, magnitude = code >> 15, code & 0x7FFF
    if magnitude == 0:
        return sign
    above = magnitude - floor
    return 2 + sign * SPAN + above if 0 <= above < SPAN else -1


@cuda.jit(device=True)
def _empty(window, counts, floor, thread):  # type: ignore[no-untyped-def]
    """Add the window to the counts of the site and clear it; between two barriers."""
    for slot in range(thread, _WINDOW, _THREADS):
        if window[slot] != 0:
            sign = slot if slot < 2 else (slot - 2) // SPAN
            magnitude = 0 if slot < 2 else floor + (slot - 2) % SPAN
            cuda.atomic.add(counts, sign * 32768 + magnitude, np.int64(window[slot]))
            window[slot] = 0


@cuda.jit(**REGISTERS)
def _count(address, rows, mantissa, stretch, most, like):  # type: ignore[no-untyped-def]
    window = cuda.shared.array(_WINDOW, np.int32)
    peak = cuda.shared.array(1, np.int32)
    sums = cuda.shared.array(_THREADS, np.float32)
    ends = cuda.shared.array(_THREADS, np.float32)
    held = cuda.local.array(AHEAD, np.uint32)
    thread, block = np.int32(cuda.threadIdx.x), np.int64(cuda.blockIdx.x)

    table = array_at(address, rows * COLUMNS, np.int64(0))
    row = np.int64(0)
    while row + 1 < rows and table[(row + 1) * COLUMNS + _BLOCK] <= block:
        row += 1
    row *= COLUMNS
    texts, tokens, width = table[row + _TEXTS], table[row + _TOKENS], table[row + _WIDTH]
    by_text, by_token, by_channel = (
        table[row + _TEXT_STRIDE],
        table[row + _TOKEN_STRIDE],
        table[row + _CHANNEL_STRIDE],
    )
    span = 1 + (texts - 1) * by_text + (tokens - 1) * by_token + (width - 1) * by_channel
    values = array_at(table[row + _X], span, like)
    counts = array_at(table[row + _COUNTS], np.int64(65536), np.int64(0))
    stretches = (width + CHANNELS - 1) // CHANNELS
    part = (block - table[row + _BLOCK]) // stretches
    lane = thread // CHANNELS
    channel = (block - table[row + _BLOCK]) % stretches * CHANNELS + thread % CHANNELS
    inside = channel < width

    for slot in range(thread, _WINDOW, _THREADS):
        window[slot] = 0
    if thread == 0:
        peak[0] = 0
    cuda.syncthreads()
    if inside and lane < tokens:
        code = code_of(bits_of(values[part * by_text + lane * by_token + channel * by_channel]), like)
        cuda.atomic.max(peak, 0, np.int32(code & 0x7FFF))
    cuda.syncthreads()
    floor = max(0, (((peak[0] >> mantissa) + 2) << mantissa) - SPAN)

    least, most_value = np.float32(np.inf), np.float32(-np.inf)
    of_texts, largest_mean = np.float64(0), np.float32(0)
    strange = np.int64(_NONE)
    counted = np.int64(0)
    for text in range(part, texts, PARTS):
        of_text = np.float64(0)
        for begin in range(0, tokens, stretch):
            end = min(begin + stretch, tokens)
            if counted + (end - begin) * CHANNELS > most:  # the same for all threads of the block
                cuda.syncthreads()
                _empty(window, counts, floor, thread)
                cuda.syncthreads()
                counted = np.int64(0)
            counted += (end - begin) * CHANNELS
            total = np.float32(0)
            if inside:
                for token in range(begin + lane, end, ROWS * AHEAD):
                    for i in range(AHEAD):  # the last one over again where there are no more
                        at = min(token + i * ROWS, end - 1)
                        held[i] = bits_of(values[text * by_text + at * by_token + channel * by_channel])
                    for i in range(AHEAD):
                        if token + i * ROWS < end:
                            code, value = code_of(held[i], like), value_of(held[i], like)
                            slot = _slot(code, floor)
                            if slot >= 0:
                                cuda.atomic.add(window, slot, 1)
                            else:
                                cuda.atomic.add(counts, code, np.int64(1))
                            if value < least:
                                least = value
                            if value > most_value:
                                most_value = value
                            total += abs(value)
                            if value - value != 0:
                                strange = min(strange, table[row + _BEFORE] + text)
            sums[thread] = total
            cuda.syncthreads()
            if lane == 0:
                total = np.float32(0)
                for i in range(ROWS):
                    total += sums[thread + i * CHANNELS]
                of_text += np.float64(total)
            cuda.syncthreads()
        of_texts += of_text
        mean = np.float32(of_text / tokens)
        if mean > largest_mean:
            largest_mean = mean

    if strange != _NONE:
        cuda.atomic.min(array_at(table[row + _STRANGE], np.int64(1), np.int64(0)), 0, strange)
    sums[thread], ends[thread] = least, most_value
    cuda.syncthreads()
    _empty(window, counts, floor, thread)
    if lane == 0 and inside:
        own, kept = part * width + channel, PARTS * width
        low = array_at(table[row + _LOW], kept, np.float32(0))
        high = array_at(table[row + _HIGH], kept, np.float32(0))
        abs_sum = array_at(table[row + _ABS_SUM], kept, np.float64(0))
        text_mean = array_at(table[row + _TEXT_MEAN], kept, np.float32(0))
        for i in range(ROWS):
            low[own] = min(low[own], sums[thread + i * CHANNELS])
            high[own] = max(high[own], ends[thread + i * CHANNELS])
        abs_sum[own] += of_texts
        text_mean[own] = max(text_mean[own], largest_mean)


def launches(rows: Sequence[Row]) -> list[tuple[torch.dtype, list[list[int]], int]]:
    """The launches that count some rows, one for each dtype there is: its table, and how many blocks it needs."""
    found = []
    for dtype in dict.fromkeys(row.x.dtype for row in rows):
        table: list[list[int]] = []
        blocks = 0
        for row in rows:
            if row.x.dtype is dtype and row.x.numel():
                table.append(row.words(blocks))
                blocks += row.blocks
        if table:
            found.append((dtype, table, blocks))
    return found


def count(rows: Sequence[Row]) -> None:
    """Add what the tensors of all rows hold to their accumulators. They lie on one device; the current stream of torch
    is the one that they are counted in."""
    for dtype, table, blocks in launches(rows):
        device = rows[0].x.device
        words = torch.tensor(table, dtype=torch.int64)
        if device.type != "cuda":  # the simulator
            _count[blocks, _THREADS](words.data_ptr(), len(table), _MANTISSA[dtype], STRETCH, MOST, _LIKE[dtype])
            continue
        there = words.pin_memory().to(device, non_blocking=True)  # torch keeps the pinned copy until it is read
        with cuda.gpus[device.index]:
            stream = cuda.external_stream(torch.cuda.current_stream(device).cuda_stream)
            _count[blocks, _THREADS, stream](
                there.data_ptr(), len(table), _MANTISSA[dtype], STRETCH, MOST, _LIKE[dtype]
            )


def none_strange(device: torch.device) -> Tensor:
    """`Row.strange` of a site that has seen nothing strange."""
    return torch.full((1,), _NONE, dtype=torch.int64, device=device)
