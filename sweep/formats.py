"""Number formats: a format is the sorted list of numbers it can represent at scale 1."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sweep.errors import allowed

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Format:
    """codes: float64, ascending, what the format represents at scale 1. The largest one is where the clip
    lands: scale = clip / largest."""

    name: str
    codes: Floats

    @property
    def largest(self) -> float:
        return float(self.codes[-1])

    @cached_property
    def _borders(self) -> Floats:
        return (self.codes[1:] + self.codes[:-1]) / 2

    def encode(self, x: Floats, scale: float) -> NDArray[np.int64]:
        """Index into `codes` of the code nearest to x / scale; what lies beyond the ends saturates.

        At scale 0 everything becomes the code of zero."""
        if scale == 0.0:
            return np.full(x.shape, np.searchsorted(self._borders, 0.0), np.int64)
        return np.searchsorted(self._borders, x / scale).astype(np.int64)

    def quantize(self, x: Floats, scale: float) -> Floats:
        """x after quantization and back, float64 of x's shape."""
        return np.asarray(self.codes[self.encode(x, scale)] * scale)

    def __str__(self) -> str:
        return self.name


FORMATS = {f.name: f for f in (Format("int8", np.arange(-127.0, 128.0)),)}


def named(name: str) -> Format:
    """The format of that name. Raises UsageError with the names allowed."""
    if name not in FORMATS:
        raise allowed("format", name, FORMATS)
    return FORMATS[name]
