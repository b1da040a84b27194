"""Squared gradients of a site, by the bins of the values they belong to: what predicted loss is read off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.quantization.bins import Floats, Layout
from sweep.quantization.histogram import Bins


@dataclass(frozen=True, eq=False)
class FisherHistogram:
    """Sums of squared gradients over the values in each bin, fold by fold.

    layout, bins: as a `Histogram` has them: uint16 [m], strictly ascending codes of the bins that hold a gradient.
    weights: float64 [K, m], the sum of g^2 over the values of a bin, where g is the derivative of the summed
    log-likelihood of labels drawn from the network's own distribution (nats) by the value.
    tokens: int64 [K], the tokens of the samples that were differentiated, per fold; half of the weighted sum of squared
    errors over them is the predicted loss in nats per token.
    """

    layout: Layout
    bins: Bins
    weights: Floats
    tokens: NDArray[np.int64]
