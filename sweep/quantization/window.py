"""Sites whose float32 values lie beyond the window of their bins, and how they are told apart after all.

float32 is counted in the bins of float16 (see `histogram`), which end at 65,520 and are coarse below 2^-14. A site
that needs others is observed once more, times a power of two that puts its largest magnitude below 2^15: then bins
are 2^-10 of a value down to 2^-29 of the largest. That is a site with a value that rounds to infinity, or with 99 % of
its values below 2^-14. All other sites are read off the first pass, and ordinary models never pay for a second.

What even that does not tell (values that are all but nothing beside the largest) is refused: see `check`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sweep.core.errors import UsageError
from sweep.quantization.bins import SIGN
from sweep.quantization.histogram import Histogram
from sweep.quantization.site_statistics import SiteStatistics
from sweep.quantization.statistics import Statistics
from sweep.quantization.types import Ints, SiteKey

HIGHEST, LOWEST = 65520.0, 2.0**-14  # what rounds to infinity; where bins begin to be evenly spaced
UNIT = 2.0**-24  # the width of those
NEARLY_ALL = 0.99
COARSEST_CLIP = 2**7  # bins: a clip is off by one of them: by 0.8 %
COARSEST_MSE = 16  # times what the width of bins would add to it: an error of 0.26 dB


def shifts(statistics: Statistics) -> dict[SiteKey, int]:
    """The sites that have to be observed again, and the powers of two for it."""
    return {
        key: shift(float(site.channel_absmax.max()))
        for key, site in statistics.sites.items()
        if not site.histogram.layout.exact and not site.histogram.layout.shift and _beyond(site.total)
    }


def of_group(site: SiteStatistics, absmax: float) -> int:
    """The power of two for some channels of a site, of which no more than the largest magnitude is known."""
    layout = site.histogram.layout
    outside = layout.shift != 0 or absmax >= HIGHEST or absmax < LOWEST
    return shift(absmax) if outside and absmax > 0 and not layout.exact else 0


def shift(absmax: float) -> int:
    """k such that absmax 2^k lies in [2^14, 2^15)."""
    return 15 - math.frexp(absmax)[1]


def merged(first: Statistics, again: Statistics) -> Statistics:
    """The first pass with the sites of another in their places; the quantiles of texts are the first's."""
    sites = {
        key: replace(again.sites[key], text_alphas=site.text_alphas, text_quantiles=site.text_quantiles)
        if key in again.sites
        else site
        for key, site in first.sites.items()
    }
    return Statistics(sites, first.meta)


def check(total: Histogram, clip: float, mse: float) -> None:
    """Raises UsageError where the bins of all that was observed are too coarse for what was read off them: the clip,
    the larger of the two if there are two, and the mean squared error."""
    if total.layout.exact or not total.absmax > 0:
        return
    unit = UNIT * 2.0**-total.layout.shift
    if outside(total)[1] or 0 < clip < COARSEST_CLIP * unit or mse < COARSEST_MSE * _low(total) * unit**2 / 12:
        raise UsageError(
            f"values of up to {float(total.absmax):.3g} with a clip at {clip:.3g} span more than the bins that float32 "
            f"is counted in ({unit:.1g} to {HIGHEST * unit / UNIT:.3g}); dtype=bfloat16 is exact at any magnitude"
        )


def outside(histogram: Histogram) -> tuple[Ints, Ints]:
    """Numbers of values in the end bins, below and above the window of float32: upper bounds of those outside it, int64
    [] or [K] each. Zero in 16-bit layouts."""
    zero = np.zeros(histogram.counts.shape[:-1], np.int64)
    if histogram.layout.exact:
        return zero, zero
    index = histogram.bins & (SIGN - 1)
    return histogram.counts[..., index == 0].sum(-1), histogram.counts[..., index == histogram.layout.top].sum(-1)


def _beyond(histogram: Histogram) -> bool:
    return bool(histogram.absmax > 0) and bool(outside(histogram)[1] or _low(histogram) > NEARLY_ALL)


def _low(histogram: Histogram) -> float:
    """The share of values in evenly spaced bins."""
    low = (histogram.bins & (SIGN - 1)) < 0x0400
    return float(histogram.counts[..., low].sum() / histogram.n)
