"""The definition of a method: it chooses, from the statistics of a site, the interval that a format's codes span."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from sweep.quantization.fold_sums import FoldSums
from sweep.quantization.formats import Format
from sweep.quantization.site_statistics import SiteStatistics
from sweep.quantization.types import Floats

Ends = tuple[Floats, Floats]  # low and high, float64 [S] each; for a symmetric format low is -high


class Reads(Enum):
    """The statistics that a method needs beyond the histogram; a calibration collects them for its sake."""

    HISTOGRAM = "histogram"
    TEXT_QUANTILES = "text quantiles"
    FISHER = "Fisher weights"


@dataclass(frozen=True, eq=False)
class Observed:
    """S sets of the folds of one site, as a method reads them.

    histogram: what each set holds. members: bool [S, K], which folds are in each set; site: all that
    was kept of the site. Both are None where there is a histogram and nothing else."""

    histogram: FoldSums
    members: NDArray[np.bool_] | None = None
    site: SiteStatistics | None = None


Rate = Callable[[SiteStatistics, NDArray[np.bool_], float | None], float]


def bound(site: SiteStatistics, members: NDArray[np.bool_], alpha: float | None) -> float:
    """The rate of what scatters as much in all folds as in one: exactly so for maxima, at most for anything else."""
    return 1.0


def argmin(site: SiteStatistics, members: NDArray[np.bool_], alpha: float | None) -> float:
    """The rate of the argmin of a rough loss, which converges with the cube root (Kim & Pollard, Annals of Statistics
    18, 1990)."""
    return float(np.count_nonzero(members) ** (-2 / 3))


@dataclass(frozen=True, eq=False)
class Method:
    """A way to choose a clip. Whatever the program has to know of it is said here.

    meaning: one line for `--help`. clip: from what was observed, alpha (None unless `uses_alpha`) and the format to
    the ends of the clip: NaN where nothing was observed, 0 where nothing but zeros was.
    quantile: whether the clip is a quantile of the values, of which the largest is one: values that are smaller one by
    one have no larger clip, and the format has no part in it.
    uses_alpha: whether alpha can change its answer; if not, alpha is null in every table, and cells that differ in
    nothing else are one. searches: whether it tries hundreds of clips, where others look one up.
    reads_maxima: whether channel maxima tell its clip of sets of channels, for symmetric formats.
    rate: how much of the variance of one fold's clip is left in that of several, whose members are named, bool [K]
    (see `quantization.replicates`). power: samples needed grow as the error's inverse to this power; None where no such
    law is known. averages: whether errors average out as samples are added, be the law known or not: those of a maximum
    do not, nor of an argmin that jumps. sections: the ends of all folds and of each by itself, [1 + K], where `clip` of
    single folds does not tell them."""

    name: str
    meaning: str
    clip: Callable[[Observed, float | None, Format], Ends]
    quantile: bool = False
    uses_alpha: bool = False
    searches: bool = False
    reads: Reads = Reads.HISTOGRAM
    reads_maxima: bool = False
    rate: Rate = bound
    power: int | None = None
    averages: bool = True
    sections: Callable[[SiteStatistics, float | None, Format], Ends] | None = None

    def __str__(self) -> str:
        return self.name
