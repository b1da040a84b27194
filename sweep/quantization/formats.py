"""Number formats: a format is the sorted list of numbers it can represent at scale 1.

Everything else follows from that list: the scale that puts its largest number on the clip, rounding to the
nearest number, saturation, error and the entropy of the codes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from sweep.core.errors import allowed
from sweep.quantization.types import Floats, Ints


@dataclass(frozen=True, eq=False)
class Format:
    """codes: float64, ascending, what the format represents at scale 1 (and zero point 0); zero is among them.

    symmetric: the clip is one magnitude, which the largest code stands for. Otherwise codes are integers
    0 … codes[-1], and a zero point says which of them stands for 0. meaning: one line for `--help`.
    """

    name: str
    codes: Floats
    symmetric: bool = True
    meaning: str = ""

    @property
    def largest(self) -> float:
        """The code that stands for the clip: scale = clip / largest."""
        return float(self.codes[-1])

    @property
    def bits(self) -> int:
        """Bits that a code takes."""
        return int(np.ceil(np.log2(len(self.codes))))

    @cached_property
    def mirrored(self) -> bool:
        """True if the codes are pairs c and -c, so that only the magnitudes of values matter."""
        return self.symmetric and np.array_equal(self.codes, -self.codes[::-1])

    @cached_property
    def middles(self) -> Floats:
        """The numbers half-way between neighbouring codes, float64 [codes - 1]."""
        return (self.codes[1:] + self.codes[:-1]) / 2

    @cached_property
    def magnitudes(self) -> Floats:
        """The codes that are not negative, ascending."""
        return self.codes[self.codes >= 0]

    def place(self, low: float, high: float) -> Quantizer:
        """The quantizer that clips to [low, high].

        Symmetric: scale = high / largest, and low is -high whatever was given.
        Otherwise the interval is first widened to hold zero, so that zero stays exact, then
        scale = (high - low) / largest and zero point = round(-low / scale) (Jacob et al. 2018, eq. 1 and
        section 3.1). Numbers then reach from -zero_point * scale to (largest - zero_point) * scale, which is
        [low, high] shifted by up to half a step.
        """
        if self.symmetric:
            return Quantizer(self, high / self.largest, 0, -high, high)
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / self.largest
        zero = int(np.rint(-low / scale)) if scale > 0 else 0
        return Quantizer(self, scale, zero, low, high)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class Quantizer:
    """A format laid on the real line: `(codes - zero_point) * scale`, for values clipped to [low, high]."""

    format: Format
    scale: float
    zero_point: int
    low: float
    high: float

    @cached_property
    def levels(self) -> Floats:
        """The number that each code stands for, float64, ascending."""
        return (self.format.codes - self.zero_point) * self.scale

    @cached_property
    def borders(self) -> Floats:
        """Values are coded i where borders[i-1] < x <= borders[i].

        Half-way between neighbours a value goes to the code an even number of codes away from zero: round
        half to even, as IEEE 754, torch's casts and `torch.round` do. (For every format here, evenness of the
        last mantissa bit or of the integer is evenness of that distance.)
        """
        middle = (self.format.middles - self.zero_point) * self.scale
        zero = int(np.searchsorted(self.format.codes, self.zero_point))
        below_even = slice((zero + 1) % 2, None, 2)  # border i lies below code i + 1
        middle[below_even] = np.nextafter(middle[below_even], -np.inf)
        return np.asarray(middle)

    def encode(self, x: Floats) -> Ints:
        """Index into the codes of the one nearest to each x; what lies beyond the ends saturates.

        At scale 0 everything becomes the code of zero."""
        if self.scale == 0.0:
            zero = np.searchsorted(self.format.codes, self.zero_point)
            return np.full(x.shape, zero, np.int64)
        return np.searchsorted(self.borders, x).astype(np.int64)

    def quantize(self, x: Floats) -> Floats:
        """x after quantization and back, float64 of x's shape."""
        return np.asarray(self.levels[self.encode(x)])


def _integers(name: str, bits: int, meaning: str = "") -> Format:
    """Symmetric integers. -2^(bits-1) stays unused, so that c and -c cost the same."""
    largest = 2.0 ** (bits - 1) - 1
    return Format(name, np.arange(-largest, largest + 1), meaning=meaning)


def _floats(name: str, exponent: int, mantissa: int, largest: float = np.inf, meaning: str = "") -> Format:
    """Numbers of a sign, `exponent` and `mantissa` bits up to `largest`, subnormals included.

    OCP 8-bit Floating Point Specification 1.0 (E4M3 without infinities, E5M2 with) and OCP Microscaling
    Formats 1.0 (E2M1, E2M3, E3M2, without infinities and NaN): bias 2^(exponent-1) - 1."""
    bias = 2 ** (exponent - 1) - 1
    field, fraction = np.divmod(np.arange(2 ** (exponent + mantissa)), 2**mantissa)
    implicit = (field > 0).astype(np.float64)
    values = np.ldexp(implicit + fraction / 2**mantissa, np.maximum(field, 1) - bias)
    values = values[values <= largest]
    return Format(name, np.concatenate([-values[:0:-1], values]), meaning=meaning)


FORMATS = {
    f.name: f
    for f in (
        _integers("int8", 8, "integers -127 … 127"),
        _integers("int4", 4, "integers -7 … 7"),
        Format("int8_asym", np.arange(256.0), symmetric=False, meaning="integers 0 … 255 with a zero point"),
        _floats("fp8_e4m3", 4, 3, 448.0, "8-bit floats of 3 mantissa bits, up to 448 (OCP, torch.float8_e4m3fn)"),
        _floats("fp8_e5m2", 5, 2, 57344.0, "8-bit floats of 2 mantissa bits, up to 57344 (OCP, torch.float8_e5m2)"),
        _floats("e2m1", 2, 1, meaning="4-bit floats 0, ½, 1, 1½, 2, 3, 4, 6 and their negatives (OCP Microscaling)"),
    )
}
SMALL_FLOATS = "eXmY"  # stands for all of them in lists: e3m2, e2m3, …
_SMALL_FLOAT = re.compile(r"e([2-5])m([1-4])")


def named(name: str) -> Format:
    """The format of that name: one of FORMATS, or eXmY, a float of up to 7 bits without infinities and NaN.

    Case does not matter. Raises UsageError with the names allowed."""
    for known, format in FORMATS.items():
        if known.casefold() == name.casefold():
            return format
    if (match := _SMALL_FLOAT.fullmatch(name.casefold())) and 1 + int(match[1]) + int(match[2]) < 8:
        return _small_float(int(match[1]), int(match[2]))
    raise allowed("format", name, [*FORMATS, SMALL_FLOATS])


@cache
def _small_float(exponent: int, mantissa: int) -> Format:
    return _floats(f"e{exponent}m{mantissa}", exponent, mantissa)
