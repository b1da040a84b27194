"""The finished folds of a calibration under way, merged a few at a time.

A float32 fold by itself takes twice what it adds to others, and merging takes as long for two as for many. So folds of
small models wait for each other, and those of large ones are merged at once.
"""

from __future__ import annotations

from sweep.quantization.statistics import Statistics

WAITING = 64 * 2**20  # bytes, at most, of folds that wait


class Finished:
    """folds: the numbers of those that are there."""

    def __init__(self) -> None:
        self.folds: set[int] = set()
        self._parts: list[Statistics] = []

    def add(self, fold: int, part: Statistics) -> None:
        self.folds.add(fold)
        self._parts.append(part)
        if sum(map(_size, self._parts[1:])) > WAITING:
            self._parts = [Statistics.merge(self._parts)]

    def merged(self) -> Statistics | None:
        """All of them; None where there is none."""
        return Statistics.merge(self._parts) if self._parts else None


def _size(part: Statistics) -> int:
    """Bytes of the counts and their bins."""
    histograms = [h for site in part.sites.values() for h in (site.histogram, site.pooled) if h]
    return sum(h.bins.nbytes + h.counts.nbytes for h in histograms)
