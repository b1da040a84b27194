"""The 65,536 bin codes of a histogram: the bit patterns of floating-point values.

The bit pattern of a float, read as an integer, is already a logarithmic bin index: it grows with the
magnitude, and its sign is the top bit. Bit 15 of a bin code is the sign, the 15 bits below it are a magnitude index.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from sweep.quantization.types import Bins, Floats

BINS = 65_536
SIGN = 32_768  # bit 15 of a bin code


@dataclass(frozen=True)
class Layout:
    """The rule by which a value gets a bin. `name` is the dtype observed. `width`: how many codes a bin takes, of which
    the first stands for it, from one edge to another; 0 where a bin is a single value. `shift`: values are counted
    times 2^shift, see `sweep.quantization.window`; edges are those of the values themselves."""

    name: str
    width: int = 0
    shift: int = 0

    @property
    def exact(self) -> bool:
        """True if every bin holds a single value."""
        return self.width == 0

    @cached_property
    def edges(self) -> Floats:
        """Magnitudes [32769]: bin i holds [edges[i], edges[i + width]], hence exactly edges[i] where that is 0.

        The float32 end bins, 0 and `top`, also hold everything below and above the window."""
        index = np.arange(SIGN + 1, dtype=np.uint32)
        wide = self.name == "bfloat16"  # the upper half of a float32
        with np.errstate(invalid="ignore"):  # the patterns of NaN, which no observed value has
            edges = ((index << 16).view(np.float32) if wide else index.astype(np.uint16).view(np.float16)).astype(
                np.float64
            )
        if self.exact:
            return edges
        edges[self.top] = 2.0**16  # where the next value would be: what lies beyond half-way rounds to infinity
        edges[1 : self.top + 1] = (edges[: self.top] + edges[1 : self.top + 1]) / 2
        edges[self.top + 1 :] = np.inf
        return np.asarray(np.ldexp(edges, -self.shift))

    @property
    def top(self) -> int:
        """The magnitude index of infinity, and in float32 of all that rounds to it."""
        return 0x7F80 if self.name == "bfloat16" else 0x7C00

    @property
    def of_folds(self) -> Layout:
        """The layout that single folds are kept in; see `SiteStatistics`."""
        return FLOAT32_FOLDS.times(self.shift) if self.width == FLOAT32.width else self

    def times(self, shift: int) -> Layout:
        """This layout for values that are counted times 2^shift."""
        return replace(self, shift=shift) if shift != self.shift else self  # which has its edges already

    def __str__(self) -> str:
        together = f", {self.width} in one" if self.width > 1 else ""
        times = f"{_TIMES}{self.shift}" if self.shift else ""
        return self.name if self.exact else f"{self.name} rounded to float16{together}{times}"


_TIMES = ", times 2^"
BFLOAT16 = Layout("bfloat16")
FLOAT16 = Layout("float16")
FLOAT32 = Layout("float32", width=1)
FLOAT32_FOLDS = Layout("float32", width=4)


@cache
def layout(name: str) -> Layout:
    """The layout written as `str(layout)`. Raises ValueError for any other string."""
    plain, times, shift = name.partition(_TIMES)
    for known in (BFLOAT16, FLOAT16, FLOAT32, FLOAT32_FOLDS):
        if plain == str(known):
            return known.times(int(shift) if times else 0)
    raise ValueError(f"unknown histogram layout {name!r}")


def union(parts: list[Bins]) -> tuple[Bins, list[NDArray[np.intp]]]:
    """All bins that occur in some part, ascending, and where each part's bins stand among them."""
    codes = [part.astype(np.intp) for part in parts]  # which numpy indexes by in a third of the time
    occupied = np.zeros(BINS, bool)
    for code in codes:
        occupied[code] = True
    bins = np.flatnonzero(occupied)
    place = np.empty(BINS, np.intp)
    place[bins] = np.arange(len(bins))
    return bins.astype(np.uint16), [place.take(code) for code in codes]
