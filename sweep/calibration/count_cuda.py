"""The observer's kernel for CUDA devices: one launch counts all sites that a hook observes.

A launch reads a table with a row for each site: where its values lie and with which strides, and where its
accumulators lie. x, B and C are counted in the tensor that they are slices of. A block of threads has a stretch of
channels of one site and every PARTS-th text to itself, and runs through their tokens in order: its extremes and sums
are its own, so their rounding does not depend on which block is faster. Counts are integers: the order of additions
cannot show. The sums of |x| of single texts are added up by the last block that is done with a stretch of channels, in
the order of the texts: so a fold's sum is what the one before it was, plus the texts that came, and goes on from there.

Activations share a few hundred bins, and additions to one address wait for each other. So a block counts in its own
shared memory, in a window of 2 x SPAN bins, and adds that to the site's counts when it is done. The window ends an
octave above the largest of some first values of the block, and begins 40 octaves (bfloat16) or 5 (float16, by whose
patterns float32 is counted, too) below its end; zeros have bins of their own in it. What falls outside is counted in
global memory at once. Where the window lies costs time, never correctness.

Convolution, bias and SiLU are computed as they are counted. As tensors they would cost 16 bytes a channel and token in
a 16-bit format: a transposed copy, the convolution and SiLU read and write 2 each, and both results are read once more
to be counted. That is 117 MB in a layer of 130m with 8 x 512 tokens, 35 us at 3.35 TB/s, and three launches. The
package causal_conv1d, called for either result, would take 12 bytes and two. Here what enters is read twice more, and
from the L2 cache, which holds its 15 MB. The sum is of float32 in the order of that package, bias first, and rounded
once, before SiLU and after: values agree to rounding with the network's own.

Compiled by numba-cuda, NVIDIA's target for numba: it has shared arrays and atomic additions to them, which Triton has
not; a simulator that runs the same source on a CPU, thread by thread, for tests; and it compiles to PTX without a GPU.
CUDA C by NVRTC would have had none but the first. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numba import cuda

from sweep.calibration import cuda_rows as columns
from sweep.calibration.cuda_convolution import BACK, convolved, factor
from sweep.calibration.cuda_launch import LIKE, launch, there
from sweep.calibration.cuda_rows import CHANNELS, COLUMNS, NOTHING_STRANGE, PARTS, Row, tables
from sweep.calibration.cuda_words import REGISTERS, array_at, bits_of, code_of, value_of

ROWS = 4  # a block's threads: CHANNELS side by side, so many of them one below the other
AHEAD = 8  # tokens in a row that a thread loads before it looks at the first
STRETCH = 4096  # tokens of a text that are summed in float32; the sums of stretches are, in float64
MOST = 2**31 - 1  # that a counter of the window holds
SPAN = 5120  # bins of the window on either side of zero: with both zeros 40,968 bytes
_HELD, _WINDOW = BACK + AHEAD, 2 + 2 * SPAN
_THREADS = CHANNELS * ROWS
_MANTISSA = {torch.float32: 10, torch.float16: 10, torch.bfloat16: 7}  # bits below the exponent of a bin code


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
    done_before = cuda.shared.array(1, np.int64)
    sums = cuda.shared.array(_THREADS, np.float32)
    ends = cuda.shared.array(_THREADS, np.float32)
    held = cuda.local.array(_HELD, np.uint32)
    thread, block = np.int32(cuda.threadIdx.x), np.int64(cuda.blockIdx.x)

    table = array_at(address, rows * COLUMNS, np.int64(0))
    row = np.int64(0)
    while row + 1 < rows and table[(row + 1) * COLUMNS + columns.BLOCK] <= block:
        row += 1
    row *= COLUMNS
    texts, tokens, width = table[row + columns.TEXTS], table[row + columns.TOKENS], table[row + columns.WIDTH]
    by_text, by_token = table[row + columns.TEXT_STRIDE], table[row + columns.TOKEN_STRIDE]
    by_channel = table[row + columns.CHANNEL_STRIDE]
    span = 1 + (texts - 1) * by_text + (tokens - 1) * by_token + (width - 1) * by_channel
    values = array_at(table[row + columns.X], span, like)
    counts = array_at(table[row + columns.COUNTS], np.int64(65536), np.int64(0))
    text_sums = array_at(table[row + columns.TEXT_SUM], texts * width, np.float64(0))
    stretches = (width + CHANNELS - 1) // CHANNELS
    own_stretch = (block - table[row + columns.BLOCK]) % stretches
    part = (block - table[row + columns.BLOCK]) // stretches
    lane = thread // CHANNELS
    channel = own_stretch * CHANNELS + thread % CHANNELS
    inside = channel < width

    convolution, silu = table[row + columns.KERNEL] != 0, table[row + columns.SILU] != 0
    bias = first = second = third = last = np.float32(0)
    if convolution and inside:
        first, second = factor(table, row, channel, 0, like), factor(table, row, channel, 1, like)
        third, last = factor(table, row, channel, 2, like), factor(table, row, channel, 3, like)
        if table[row + columns.BIAS] != 0:
            bias = value_of(bits_of(array_at(table[row + columns.BIAS], width, like)[channel]), like)

    for slot in range(thread, _WINDOW, _THREADS):
        window[slot] = 0
    if thread == 0:
        peak[0] = 0
    cuda.syncthreads()
    if inside and lane < tokens:
        start = part * by_text + channel * by_channel
        for i in range(BACK + 1):
            back = lane + i - BACK
            held[i] = bits_of(values[start + back * by_token]) if back >= 0 else np.uint32(0)
        bits = held[BACK]
        if convolution:
            bits = convolved(held, 0, bias, first, second, third, last, silu, like)
        cuda.atomic.max(peak, 0, np.int32(code_of(bits, like) & 0x7FFF))
    cuda.syncthreads()
    floor = max(0, (((peak[0] >> mantissa) + 2) << mantissa) - SPAN)

    least, most_value = np.float32(np.inf), np.float32(-np.inf)
    largest_mean = np.float32(0)
    strange = np.int64(NOTHING_STRANGE)
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
                start = text * by_text + channel * by_channel
                for token in range(begin + lane * AHEAD, end, ROWS * AHEAD):
                    for i in range(AHEAD):  # the last one over again where there are no more
                        held[BACK + i] = bits_of(values[start + min(token + i, end - 1) * by_token])
                    if convolution:
                        for i in range(BACK):
                            at = token + i - BACK
                            held[i] = bits_of(values[start + at * by_token]) if at >= 0 else np.uint32(0)
                    for i in range(AHEAD):
                        if token + i < end:
                            bits = held[BACK + i]
                            if convolution:
                                bits = convolved(held, i, bias, first, second, third, last, silu, like)
                            code, value = code_of(bits, like), value_of(bits, like)
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
                                strange = min(strange, table[row + columns.BEFORE] + text)
            sums[thread] = total
            cuda.syncthreads()
            if lane == 0:
                total = np.float32(0)
                for i in range(ROWS):
                    total += sums[thread + i * CHANNELS]
                of_text += np.float64(total)
            cuda.syncthreads()
        if lane == 0 and inside:
            text_sums[text * width + channel] = of_text
        mean = np.float32(of_text / tokens)
        if mean > largest_mean:
            largest_mean = mean

    if strange != NOTHING_STRANGE:
        cuda.atomic.min(array_at(table[row + columns.STRANGE], np.int64(1), np.int64(0)), 0, strange)
    sums[thread], ends[thread] = least, most_value
    cuda.threadfence()  # the sums of texts are to be seen by whoever draws the last ticket
    cuda.syncthreads()
    _empty(window, counts, floor, thread)
    if thread == 0:
        ticket = table[row + columns.TICKET] + own_stretch
        done_before[0] = cuda.atomic.add(array_at(address, ticket + 1, np.int64(0)), ticket, np.int64(1))
    if lane == 0 and inside:
        own, kept = part * width + channel, PARTS * width
        low = array_at(table[row + columns.LOW], kept, np.float32(0))
        high = array_at(table[row + columns.HIGH], kept, np.float32(0))
        text_mean = array_at(table[row + columns.TEXT_MEAN], kept, np.float32(0))
        for i in range(ROWS):
            low[own] = min(low[own], sums[thread + i * CHANNELS])
            high[own] = max(high[own], ends[thread + i * CHANNELS])
        text_mean[own] = max(text_mean[own], largest_mean)
    cuda.syncthreads()
    if done_before[0] == min(texts, PARTS) - 1:  # all others are done with these channels
        cuda.threadfence()
        if lane == 0 and inside:
            abs_sum = array_at(table[row + columns.ABS_SUM], width, np.float64(0))
            of_texts = abs_sum[channel]
            for text in range(texts):
                of_texts += text_sums[text * width + channel]
            abs_sum[channel] = of_texts


def count(rows: Sequence[Row]) -> None:
    """Add what the values of all rows are to their accumulators. They lie on one device; the current stream of torch
    is the one that they are counted in."""
    for table in tables(rows):
        device = table.text_sums.device
        words = there(table.words, device)
        fixed = _MANTISSA[table.dtype], STRETCH, MOST, LIKE[table.dtype]
        launch(_count, table.blocks, _THREADS, device, words.data_ptr(), table.rows, *fixed)
