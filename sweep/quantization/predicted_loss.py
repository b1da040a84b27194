"""Predicted loss: the cost of quantizing a site to the network, nats per token, read off squared gradients.

Rounding moves the values x_i of a site by e_i. To second order the predictions of the network then diverge by
KL(p || p_q) = 1/2 e' F e, F the Fisher information of its own predictive distribution (S. Kullback, Information Theory
and Statistics, 1959, section 2.6). With the diagonal alone, which takes the errors of different values as independent,
that is 1/2 sum g_i^2 e_i^2, with g the gradient of the log-likelihood of labels drawn from that distribution (drawn,
not the text's own: Kunstner et al. 2019, arXiv 1905.12558). As e_i depends on x_i alone, the sum of g^2 in each bin of
x tells it for every quantizer. Errors that go together cost more: it is a lower estimate, whose order holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sweep.quantization.fisher import FisherHistogram
from sweep.quantization.formats import Quantizer
from sweep.quantization.histogram import Histogram
from sweep.quantization.metrics import ends, squared_errors
from sweep.quantization.site_statistics import SiteStatistics, leave_one_out
from sweep.quantization.types import Floats


@dataclass(frozen=True, eq=False)
class Weighted:
    """x: float64 [m], ascending, what stands for each bin, as `Histogram.values` has it. weights: float64 [K, m], the
    sum of g^2 over its values, fold by fold. tokens: int64 [K]."""

    x: Floats
    weights: Floats
    tokens: NDArray[np.int64]


def weighted(site: SiteStatistics) -> Weighted | None:
    """The squared gradients of a site; None where none were collected."""
    if site.fisher is None:
        return None
    return _weighted(site.fisher, float(site.histogram.min.min()), float(site.histogram.max.max()))


@lru_cache(maxsize=2)  # the formats and methods of a site ask in turn
def _weighted(fisher: FisherHistogram, low: float, high: float) -> Weighted:
    nothing = np.zeros((1, len(fisher.bins)), np.int64)
    bins = Histogram(fisher.layout, fisher.bins, nothing, np.array([low]), np.array([high]))
    return Weighted(bins.values[bins.ascending], fisher.weights[:, bins.ascending], fisher.tokens)


def predict(site: SiteStatistics, quantizers: Sequence[Quantizer]) -> Floats:
    """The predicted loss of each quantizer, float64 [Q, 1 + K], from all folds and from all but each in turn; NaN where
    no gradients were collected, 0 where all of them are 0."""
    if (gradients := weighted(site)) is None:
        return np.full((len(quantizers), 1 + len(site.folds)), np.nan)
    x = gradients.x
    squares = np.empty((len(quantizers), len(x)))
    squared_errors(x, quantizers, [ends(x, q) for q in quantizers], squares)
    members = leave_one_out(len(gradients.tokens)).T
    sums = (gradients.weights @ squares.T).T @ members
    with np.errstate(invalid="ignore", divide="ignore"):  # no fold is left of one
        return np.asarray(sums / (gradients.tokens @ members) / 2)


def replicated(site: SiteStatistics, quantizer: Quantizer, own: Sequence[Quantizer] | None) -> Floats:
    """The predicted loss of a quantizer from all folds, then of each replicate's own from all folds but its, [1 + K].

    own: K quantizers; None where there are no replicates, which are NaN then."""
    if own is None:
        return np.append(predict(site, [quantizer])[0, 0], np.full(len(site.folds), np.nan))
    each = predict(site, [quantizer, *own])
    return np.append(each[0, 0], np.diagonal(each[1:, 1:]))
