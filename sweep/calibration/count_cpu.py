"""The observer's loops for CPUs, compiled by numba: every value is loaded once, while it is in a core's cache.

numpy and torch would take a pass each for the bin, the counts, the extremes and the sum. Here a stretch of one
token's channels passes through a few short loops while it lies in the innermost cache. All but the counting are
loops that LLVM turns into vector instructions; each touches few arrays, since LLVM gives up on more.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

PARTS = 1
WIDTH = 2048  # channels that pass together; with what is kept of each they fill the innermost cache
_HALF, _FLOAT, _WORD, _SHORT = ir.HalfType(), ir.FloatType(), ir.IntType(32), ir.IntType(16)


@intrinsic  # type: ignore[untyped-decorator]
def _code(typing: Any, x: Any) -> Any:
    """The bin: the bit pattern of the float16 that a float32 rounds to, of a 16-bit float its own."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (given,) = arguments
        return builder.bitcast(builder.fptrunc(given, _HALF), _SHORT) if x is types.float32 else given

    return types.uint16(x), generate


@intrinsic  # type: ignore[untyped-decorator]
def _value(typing: Any, x: Any) -> Any:
    """As float32: a float32 itself, a float16 whose bits come as int16, a bfloat16 whose bits come as uint16."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (given,) = arguments
        if x is types.float32:
            return given
        if x is types.int16:
            return builder.fpext(builder.bitcast(given, _HALF), _FLOAT)
        return builder.bitcast(builder.shl(builder.zext(given, _WORD), ir.Constant(_WORD, 16)), _FLOAT)

    return types.float32(x), generate


def _compiled(function: Any) -> Any:
    """By numba, and kept for later processes where there is a place for that."""
    try:
        return njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError as error:  # a read-only installation in a read-only home
        if "no locator" not in str(error):
            raise
        why = "no writable place for numba's cache: compiling anew in every process; NUMBA_CACHE_DIR can name one"
        if function.__name__ == "_run":  # the first of them: once is enough
            print(why, file=sys.stderr, flush=True)
        return njit(nogil=True, error_model="numpy")(function)


# nothing but the types of the arguments tells the dtypes apart: what a closure holds would be in the cache's key
@_compiled
def _run(flat, shape, strides, counts, low, high, abs_sum, text_mean, finite):  # type: ignore[no-untyped-def]
    texts, tokens, channels = shape
    codes = np.empty(min(WIDTH, channels), np.uint16)
    total = np.empty(len(codes), np.float32)
    for text in range(texts):
        for begin in range(0, channels, WIDTH):
            end = min(begin + WIDTH, channels)
            least, most = low[begin:end], high[begin:end]
            total[:] = 0
            for token in range(tokens):
                start = text * strides[0] + token * strides[1]
                row = flat[start + begin : start + end]
                for i in range(len(row)):
                    codes[i] = _code(row[i])
                for i in range(len(row)):
                    x = _value(row[i])
                    least[i] = x if x < least[i] else least[i]
                    most[i] = x if x > most[i] else most[i]
                for i in range(len(row)):
                    total[i] += abs(_value(row[i]))
                for i in range(len(row)):
                    counts[codes[i]] += np.int32(1)
            for i in range(end - begin):
                abs_sum[begin + i] += total[i]
                text_mean[begin + i] = max(text_mean[begin + i], total[i] / np.float32(tokens))
                if not np.isfinite(total[i]):  # by a value, or because the sum of finite ones has overflowed
                    for token in range(tokens):
                        start = text * strides[0] + token * strides[1]
                        finite[text] &= np.isfinite(_value(flat[start + begin + i]))


def tally(x: Tensor, counts: Tensor, low: Tensor, high: Tensor, abs_sum: Tensor, text_mean: Tensor) -> Tensor:
    """Add what x holds to the other arguments, in place; returns which texts were all finite, bool [texts].

    x: bf16, fp16 or fp32 [texts, tokens, channels]. counts: int32 [65536], of every bin. low, high: float32
    [1, channels], the extremes so far. abs_sum: float64 [1, channels], of |x|. text_mean: float32 [1, channels], the
    largest mean |x| of a text. Everything lies on the CPU. The lock of the interpreter is not held."""
    if x.stride(2) != 1:
        x = x.contiguous()
    span = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    flat = x.as_strided((span,), (1,))
    if x.dtype is not torch.float32:
        flat = flat.view(torch.int16 if x.dtype is torch.float16 else torch.uint16)
    finite = torch.ones(len(x), dtype=torch.bool)
    arrays = (t.numpy() for t in (counts, low[0], high[0], abs_sum[0], text_mean[0], finite))
    _run(flat.numpy(), tuple(x.shape), x.stride(), *arrays)
    return finite


@_compiled
def _weigh(x, g, shape, strides, g_strides, shift, sums):  # type: ignore[no-untyped-def]
    texts, tokens, channels = shape
    codes = np.empty(min(WIDTH, channels), np.uint16)
    seen = 0.0
    for text in range(texts):
        for token in range(tokens):
            start = text * strides[0] + token * strides[1]
            g_start = text * g_strides[0] + token * g_strides[1]
            for begin in range(0, channels, WIDTH):
                end = min(begin + WIDTH, channels)
                row, slope = x[start + begin : start + end], g[g_start + begin : g_start + end]
                for i in range(len(row)):
                    codes[i] = _code(row[i])
                for i in range(len(row)):
                    square = np.float64(slope[i]) * np.float64(slope[i])
                    seen += square
                    sums[codes[i] >> shift] += square
    return seen


def weigh(x: Tensor, g: Tensor, sums: Tensor, width: int) -> bool:
    """Add the squares of g to the sums of the bins that x lies in, value after value; returns whether all are finite.

    x: bf16, fp16 or fp32 [texts, tokens, channels]. g: of the same shape, any dtype up to float32. sums: float64
    [65536 / width]. width: how many codes make a bin, 1 or 4. The order of addition is that of the values, whatever the
    machine."""
    x, g = (t if t.stride(2) == 1 else t.contiguous() for t in (x, g.float()))
    flats = []
    for t in (x, g):
        span = 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
        flat = t.as_strided((span,), (1,))
        if t.dtype is not torch.float32:
            flat = flat.view(torch.int16 if t.dtype is torch.float16 else torch.uint16)
        flats.append(flat.numpy())
    shift = width.bit_length() - 1
    return bool(np.isfinite(_weigh(*flats, tuple(x.shape), x.stride(), g.stride(), shift, sums.numpy())))
