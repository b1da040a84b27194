"""The 65,536 bins of a histogram: the bit patterns of floating-point values.

The bit pattern of a float, read as an integer, is already a logarithmic bin index: it grows with the
magnitude, and its sign is the top bit. Bit 15 of a bin code is the sign, the 15 bits below it are a magnitude index.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

BINS = 65_536
SIGN = 32_768  # bit 15 of a bin code

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Layout:
    """How a value becomes a bin. `name` is the dtype observed; `exact` says whether a bin holds one value only."""

    name: str
    exact: bool = True

    @cached_property
    def edges(self) -> Floats:
        """Magnitudes [32769]: bin i holds [edges[i], edges[i+1]] in float32, exactly edges[i] otherwise.

        The float32 end bins, 0 and `top`, also hold everything below and above the window."""
        index = np.arange(SIGN + 1, dtype=np.uint32)
        wide = self.name == "bfloat16"  # the upper half of a float32
        with np.errstate(invalid="ignore"):  # the patterns of NaN, which no observed value has
            found = ((index << 16).view(np.float32) if wide else index.astype(np.uint16).view(np.float16)).astype(
                np.float64
            )
        if self.exact:
            return found
        found[self.top] = 2.0**16  # where the next value would be: what lies beyond half-way rounds to infinity
        found[1 : self.top + 1] = (found[: self.top] + found[1 : self.top + 1]) / 2
        found[self.top + 1 :] = np.inf
        return found

    @property
    def top(self) -> int:
        """The magnitude index of infinity, and in float32 of all that rounds to it."""
        return 0x7F80 if self.name == "bfloat16" else 0x7C00

    def __str__(self) -> str:
        return self.name if self.exact else f"{self.name} rounded to float16"


BFLOAT16 = Layout("bfloat16")
FLOAT16 = Layout("float16")
FLOAT32 = Layout("float32", exact=False)


@cache
def layout(name: str) -> Layout:
    """The layout written as `str(layout)`. Raises ValueError for any other string."""
    for known in (BFLOAT16, FLOAT16, FLOAT32):
        if name == str(known):
            return known
    raise ValueError(f"unknown histogram layout {name!r}")
