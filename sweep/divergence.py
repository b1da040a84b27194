"""The clip that changes the distribution least: Kullback-Leibler calibration.

S. Migacz, "8-bit inference with TensorRT", GTC 2017, carried over from 128 integers to any codebook.

Definition. Cut [0, largest |x|] into 2048 bins of equal width w and count. A candidate clip is T = i w for
i = 2048, 2032, 2016, … down to half as many bins as the format has codes (128 for 8 bits); below that every bin
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
from sweep.sums import folded, signed

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 2048
STRIDE = 16
EQUAL = 1e-12


def clip(histogram: Histogram, format: Format) -> tuple[Floats, Floats]:
    """(low, high), float64 [K] each, for each member of a stack; NaN where one is empty."""
    sums = folded(histogram) if format.symmetric else signed(histogram)
    running = np.ascontiguousarray(sums.below[:, 0].T)  # [K, m + 1]
    sizes = np.where(histogram.n > 0, histogram.absmax, 0.0)
    ends = np.where(histogram.n > 0, 0.0, np.nan) * np.ones((2, 1))
    for size in np.unique(sizes[sizes > 0]):  # most replicates have the same extreme, hence the same bins
        of = np.flatnonzero(sizes == size)
        edges = np.arange(0 if format.symmetric else -BINS, BINS) * (size / BINS)  # exact: a float32 times 12 bits
        below = np.searchsorted(sums.x, edges)
        below[0] = 0
        binned = np.diff(running[of[:, None], below], append=sums.count[of, None])  # the largest |x|: in the last bin
        tops = candidates(format) / BINS * size
        if format.symmetric:
            low, high = np.broadcast_to([[-tops], [tops]], (2, len(of), len(tops)))
            found = divergence(binned, _cells(format.name))
        else:
            low = np.maximum(histogram.min[of, None], -tops)
            high = np.minimum(histogram.max[of, None], tops)
            cells = [_signed_cells(format, a, b, size / BINS) for a, b in zip(low, high, strict=True)]
            found = np.concatenate([divergence(h[None], c) for h, c in zip(binned, cells, strict=True)])
        good = found <= found.min(1, keepdims=True) + EQUAL
        best = good.shape[1] - 1 - good[:, ::-1].argmax(1)
        ends[:, of] = low[np.arange(len(of)), best], high[np.arange(len(of)), best]
    return ends[0], ends[1]


def candidates(format: Format) -> Ints:
    """How many of the 2048 bins are kept, ascending, int64 [C]."""
    fewest = -(-len(format.codes) // (2 * STRIDE)) * STRIDE
    return np.arange(fewest, BINS + 1, STRIDE)


def divergence(counts: Floats, cells: Ints) -> Floats:
    """sum P ln(P / Q), float64 [K, C], of the bins counts [K, B]; infinite where no bin that is kept is occupied.

    cells: int64 [C, J + 1], ascending: code j of candidate c holds the bins cells[c, j] … cells[c, j + 1] - 1."""
    start, stop, bins = cells[:, 0], cells[:, -1], counts.shape[1]
    occupied = counts > 0
    below, number, own = (_running(t) for t in (counts, occupied, _xlogx(counts)))
    mass, wide = np.diff(below[:, cells]), np.diff(number[:, cells])  # [K, C, J]
    even = np.divide(mass, wide, out=np.ones_like(mass), where=wide > 0)
    kept = below[:, stop] - below[:, start]
    within = own[:, stop] - own[:, start] - np.einsum("kcj,kcj->kc", mass, np.log(even))

    index = np.arange(bins)
    last = np.maximum.accumulate(np.where(occupied, index, -1), 1)[:, stop - 1]
    first = np.minimum.accumulate(np.where(occupied, index, bins)[:, ::-1], 1)[:, ::-1][:, start]
    filled = wide > 0
    ends = filled.shape[2] - 1 - filled[..., ::-1].argmax(2), filled.argmax(2)  # the cells of the last and the first
    above, under = below[:, -1:] - below[:, stop], below[:, start]
    one = first == last
    above, under = np.where(one, above + under, above), np.where(one, 0.0, under)
    total = below[:, -1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        for bin, cell, extra in ((last, ends[0], above), (first, ends[1], under)):
            held = np.take_along_axis(counts, np.clip(bin, 0, bins - 1), 1)
            mean = np.take_along_axis(even, cell[..., None], 2)[..., 0]
            within = within + _xlogx(held + extra) - _xlogx(held) - extra * np.log(mean)
        return np.where(kept > 0, within / total + np.log(kept / total), np.inf)


def _running(x: NDArray[np.generic]) -> Floats:
    return np.concatenate([np.zeros((len(x), 1)), np.cumsum(x, axis=1, dtype=np.float64)], 1)


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
