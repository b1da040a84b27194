"""Squared gradients of a site, by the bins of the values they belong to: what predicted loss is read off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.quantization.bins import Layout, union
from sweep.quantization.types import Bins, Floats


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

    @classmethod
    def from_dense(cls, layout: Layout, dense: Floats, tokens: int) -> FisherHistogram:
        """One fold, from the sums of all bins of the layout, float64 [65536], [16384] where four codes make a bin."""
        bins = np.flatnonzero(dense)
        codes = (bins * max(layout.width, 1)).astype(np.uint16)
        return cls(layout, codes, dense[bins][None], np.array([tokens], np.int64))

    def dense(self, fold: int, size: int) -> Floats:
        """The sums of one fold for all bins of the layout, float64 [size]: what `from_dense` was given."""
        sums = np.zeros(size)
        sums[self.bins // max(self.layout.width, 1)] = self.weights[fold]
        return sums

    @classmethod
    def merge(cls, parts: Sequence[FisherHistogram]) -> FisherHistogram:
        """The folds of all, side by side; no two sums are added, so that no order matters.

        Raises ValueError if layouts differ."""
        if len(layouts := {str(part.layout) for part in parts}) != 1:
            raise ValueError(f"cannot merge squared gradients of different layouts: {', '.join(sorted(layouts))}")
        bins, places = union([part.bins for part in parts])
        tokens = np.concatenate([part.tokens for part in parts])
        weights = np.zeros((len(tokens), len(bins)))
        row = 0
        for part, place in zip(parts, places, strict=True):
            weights[row : row + len(part.tokens), place] = part.weights
            row += len(part.tokens)
        return cls(parts[0].layout, bins, weights, tokens)

    def take(self, folds: NDArray[np.intp]) -> FisherHistogram:
        """Some of the folds, in the order that is given."""
        return FisherHistogram(self.layout, self.bins, self.weights[folds], self.tokens[folds])
