"""The clip that changes the distribution least: Kullback-Leibler calibration.

S. Migacz, "8-bit inference with TensorRT", GTC 2017, carried over from 128 integers to any codebook.

Definition. Cut [0, largest |x|] into 2048 bins of equal width w and count. A candidate clip is T = i w for
i = 2048, 2040, 2032, … down to half as many bins as the format has codes (128 for 8 bits); below that every bin
would have a code of its own. For each candidate,
    P(k), k < i    the bin's share of all values; the values beyond T are added to its last occupied bin;
    Q(k), k < i    the values below T of all bins that share a code (the one nearest to the bin's middle, the
                   upper one half-way), spread evenly over those of them that are occupied, as a share of the
                   values below T;
and the answer is the T of the smallest sum of P ln(P / Q); the largest such T if several are (to 1e-12).

With a zero point the bins run over the signed values, w as before, and T clips both signs, [max(min, -T),
min(max, T)]; what is beyond either end is added to the first and to the last occupied bin.

Two details differ from the slides: what is beyond T goes to the last *occupied* bin, since an empty last bin
has Q = 0 < P and an infinite divergence; and bins are matched to the nearest code, where the slides cut i bins
into 128 equal parts.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from sweep.formats import Format, named
from sweep.histogram import Histogram

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 2048
STRIDE = 8
EQUAL = 1e-12


def clip(histogram: Histogram, format: Format) -> tuple[Floats, Floats]:
    """(low, high), float64 [K] each, for each member of a stack; NaN where one is empty."""
    ends = np.full((2, len(histogram.counts)), np.nan)
    sums = histogram.folded_sums if format.symmetric else histogram.sums
    counts = np.ascontiguousarray(sums.below[:, 0].T)
    first = 0 if format.symmetric else -BINS
    for k, (n, size) in enumerate(zip(histogram.n, histogram.absmax, strict=True)):
        if n == 0 or size == 0:
            ends[:, k] = 0.0 if n else np.nan
            continue
        edges = np.arange(first, BINS) * (size / BINS)  # exact: a float32 times 12 bits
        below = np.searchsorted(sums.x, edges)
        below[0] = 0
        binned = np.diff(counts[k, below], append=n)  # the largest |x| is in the last bin
        tops = candidates(format) / BINS * size
        if format.symmetric:
            cells = _cells(format.name)
            low, high = -tops, tops
        else:
            low, high = np.maximum(histogram.min[k], -tops), np.minimum(histogram.max[k], tops)
            cells = _signed_cells(format, low, high, size / BINS)
        found = divergence(binned, cells)
        best = np.flatnonzero(found <= found.min() + EQUAL)[-1]
        ends[:, k] = low[best], high[best]
    return ends[0], ends[1]


def candidates(format: Format) -> Ints:
    """How many of the 2048 bins are kept, ascending, int64 [C]."""
    fewest = -(-len(format.codes) // (2 * STRIDE)) * STRIDE
    return np.arange(fewest, BINS + 1, STRIDE)


def divergence(counts: Floats, cells: Ints) -> Floats:
    """sum P ln(P / Q), float64 [C], of the bins counts [B]; infinite where no bin that is kept is occupied.

    cells: int64 [C, J + 1], ascending: code j of candidate c holds the bins cells[c, j] … cells[c, j + 1] - 1."""
    start, stop = cells[:, 0], cells[:, -1]
    occupied = counts > 0
    below, number, own = (_running(t) for t in (counts, occupied, _xlogx(counts)))
    mass, bins = np.diff(below[cells]), np.diff(number[cells])
    even = np.divide(mass, bins, out=np.ones_like(mass), where=bins > 0)
    kept = mass.sum(1)
    within = own[stop] - own[start] - (mass * np.log(even)).sum(1)

    index = np.arange(len(counts))
    last = np.maximum.accumulate(np.where(occupied, index, -1))[stop - 1]
    first = np.minimum.accumulate(np.where(occupied, index, len(counts))[::-1])[::-1][start]
    row = np.arange(len(cells))
    last_even = even[row, bins.shape[1] - 1 - (bins > 0)[:, ::-1].argmax(1)]
    first_even = even[row, (bins > 0).argmax(1)]
    above, under = below[-1] - below[stop], below[start]
    one = first == last
    above, under = np.where(one, above + under, above), np.where(one, 0.0, under)
    total = below[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        for bin, mean, extra in ((last, last_even, above), (first, first_even, under)):
            held = counts[np.clip(bin, 0, len(counts) - 1)]
            within = within + _xlogx(held + extra) - _xlogx(held) - extra * np.log(mean)
        return np.where(kept > 0, within / total + np.log(kept / total), np.inf)


def _running(x: NDArray[np.generic]) -> Floats:
    return np.concatenate([[0.0], np.cumsum(x, dtype=np.float64)])


def _xlogx(x: Floats) -> Floats:
    return np.asarray(x * np.log(x, out=np.zeros_like(x), where=x > 0))


@cache
def _cells(name: str) -> Ints:
    """Cells of all candidates for bins of |x|; they do not depend on the values."""
    format = named(name)
    codes = format.magnitudes
    kept = candidates(format)[:, None]
    borders = np.ceil((codes[1:] + codes[:-1]) / 2 * kept / format.largest - 0.5).astype(np.int64)
    return np.concatenate([0 * kept, np.clip(borders, 0, kept), kept], 1)


def _signed_cells(format: Format, low: Floats, high: Floats, width: float) -> Ints:
    """Cells of the candidates [low, high], float64 [C] each; bin 2048 starts at zero."""
    placed = [format.place(a, b) for a, b in zip(low, high, strict=True)]
    middles = np.stack([(q.levels[1:] + q.levels[:-1]) / 2 for q in placed])
    start = np.floor(low / width)[:, None].clip(-BINS, 0)
    stop = np.ceil(high / width)[:, None].clip(0, BINS)
    borders = np.clip(np.ceil(middles / width - 0.5), start, stop)
    return np.concatenate([start, borders, stop], 1).astype(np.int64) + BINS
