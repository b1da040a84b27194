"""Positions among sorted values, found by bit patterns instead of by bisection.

The bit pattern of a float that is not negative, read as an integer, grows with its value. Its upper bits are a key:
values of smaller keys lie below, values of larger ones above, and only those of the same key are compared.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sweep.quantization.types import Floats

_KEPT = 10  # mantissa bits of a key, as many as bins have at most, so that few values share one
_OCTAVES = 32  # below the largest value that keys tell apart


class Lookup:
    """Finds what `numpy.searchsorted(x, y)` finds, for float64 x [m], ascending, and float64 y of any shape.

    Faster by several times for many y at once; by bisection itself where x has negative values."""

    def __init__(self, x: Floats) -> None:
        self.x = x
        self._keyed = bool(len(x)) and x[0] >= 0
        if not self._keyed:
            return
        keys = _key(x)
        self._first = max(int(keys[0]), int(keys[-1]) - (_OCTAVES << _KEPT))  # holds all smaller ones, too
        sharing = np.bincount(np.maximum(keys - self._first, 0))
        self._before = np.concatenate([[0], np.cumsum(sharing)])  # how many values have smaller keys
        self._most = int(sharing[1:].max(initial=0))
        self._padded = np.append(x, np.inf)

    def below(self, y: Floats) -> NDArray[np.intp]:
        """Number of x that are less than each y, int of y's shape."""
        if not self._keyed:
            return np.asarray(np.searchsorted(self.x, y))
        key = _key(y) - self._first
        np.clip(key, 0, len(self._before) - 1, out=key)
        place = self._before.take(key)
        for _ in range(self._most):
            place += self._padded.take(place) < y
        if np.any(small := key == 0):
            place[small] = np.searchsorted(self.x, y[small])
        return place


def _key(x: Floats) -> NDArray[np.int32]:
    with np.errstate(over="ignore"):  # infinity's key is larger than all others
        return np.asarray(x.astype(np.float32).view(np.int32) >> (23 - _KEPT))
