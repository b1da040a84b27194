"""A quantile of all values of all texts, pooled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sweep.quantization import replicates
from sweep.quantization.formats import Format
from sweep.quantization.methods import minmax
from sweep.quantization.methods.method import Ends, Method, Observed
from sweep.quantization.site_statistics import SiteStatistics


def clip(observed: Observed, alpha: float | None, format: Format) -> Ends:
    assert alpha is not None
    if alpha == 1:
        return minmax.clip(observed, alpha, format)
    histogram = observed.histogram
    if format.symmetric:
        size = histogram.abs_quantile(alpha)
        return -size, size
    ends = histogram.quantile(1 - alpha), histogram.quantile(alpha)
    # below alpha = 1/2 they would change places
    return np.minimum(*ends), np.maximum(*ends)


def rate(site: SiteStatistics, members: NDArray[np.bool_], alpha: float | None) -> float:
    assert alpha is not None
    return replicates.rate_of_quantile((1 - alpha) * float(site.histogram.n[members].sum()), int(members.sum()))


METHOD = Method(
    "percentile",
    "the alpha-quantile of all magnitudes, pooled; with a zero point, the (1 - alpha)- and the alpha-quantile",
    clip,
    quantile=True,
    uses_alpha=True,
    rate=rate,
    power=2,
)
