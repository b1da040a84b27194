"""A causal convolution with SiLU, one value at a time, for the kernel that counts what it makes.

The sum is of float32, bias first, then token after token, as in the package causal_conv1d."""

from __future__ import annotations

import math

import numpy as np
from numba import cuda

from sweep.calibration import cuda_rows as columns
from sweep.calibration.cuda_words import array_at, bits_of, rounded, value_of
from sweep.models.kernels.conv import TAPS

BACK = TAPS - 1  # tokens that it looks back


@cuda.jit(device=True)
def factor(table, row, channel, tap, like):  # type: ignore[no-untyped-def]
    """The weight of a row's convolution for the value BACK - tap tokens earlier; 0 beyond its kernel."""
    own = tap - (TAPS - table[row + columns.KERNEL])
    if own < 0:
        return np.float32(0)
    at = channel * table[row + columns.CHANNEL_WEIGHT] + own * table[row + columns.TAP_WEIGHT]
    return value_of(bits_of(array_at(table[row + columns.WEIGHT], at + 1, like)[at]), like)


@cuda.jit(device=True)
def convolved(held, i, bias, first, second, third, last, silu, like):  # type: ignore[no-untyped-def]
    """The bits of the result at the token whose bits are held[i + BACK], those before it one place before."""
    value = bias + first * value_of(held[i], like)
    value += second * value_of(held[i + 1], like)
    value += third * value_of(held[i + 2], like)
    value += last * value_of(held[i + 3], like)
    if silu:
        value = value / (np.float32(1) + np.float32(math.exp(min(-value, np.float32(89)))))  # of 89 it is infinite
    return rounded(value, like)
