"""Sums of squared gradients, by the bins of the values they belong to.

They are float64, added up value by value on the host and sample by sample, fold by fold: so they are the same bit for
bit however the work is cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sweep.calibration.accumulator import LAYOUTS, scaled
from sweep.config.knobs import Calibration
from sweep.core.errors import UsageError
from sweep.quantization.bins import BINS, Layout, layout
from sweep.quantization.fisher import FisherHistogram
from sweep.quantization.statistics import Key

VERSION = 1  # of how labels are drawn and gradients rounded


def preimage(calibration: Calibration) -> dict[str, Any]:
    """Its share of a calibration's identity; empty where nothing is differentiated."""
    if not calibration.fisher:
        return {}
    return {"fisher": {"samples": calibration.fisher, "label_seed": calibration.seed, "version": VERSION}}


class Gradients:
    """Accumulates one fold. groups: per layer and site, channels that get sums of their own, and nothing else does.
    shifts: sites, or groups, whose values are told apart times a power of two (`quantization.window`); without groups
    nothing else gets sums."""

    def __init__(
        self,
        groups: Mapping[Key, Mapping[str, NDArray[np.int64]]] | None = None,
        shifts: Mapping[Key, int] | None = None,
    ) -> None:
        self._groups, self._shifts = groups or {}, shifts or {}
        self._sums: dict[Key, Tensor] = {}  # float64, one a bin
        self._layout: dict[Key, Layout] = {}
        self.tokens = 0

    def __call__(self, layer: int, site: str, x: Tensor, g: Tensor) -> None:
        """Add the squares of the gradients g of the values x of one site. Raises UsageError where one is not finite."""
        x, g = x.cpu(), g.cpu()
        if not self._groups and (not self._shifts or (layer, site) in self._shifts):
            self._add((layer, site), x, g)
        for part, channels in self._groups.get((layer, site), {}).items():
            self._add((layer, part), x[..., channels], g[..., channels])

    def _add(self, key: Key, x: Tensor, g: Tensor) -> None:
        from sweep.calibration.count_cpu import weigh  # numba takes a moment, and is asked for only when it is needed

        shift = self._shifts.get(key, 0)
        x = scaled(x, shift)  # the gradient stays the value's own: bins stand for unscaled values
        bins = LAYOUTS[x.dtype].times(shift).of_folds
        width = max(bins.width, 1)
        if key not in self._sums:
            self._sums[key] = torch.zeros(BINS // width, dtype=torch.float64)
            self._layout[key] = bins
        if not weigh(x, g, self._sums[key], width):
            raise UsageError(
                f"calibration.fisher: the gradient at layer {key[0]}, site {key[1]} is NaN or infinite. "
                "Try dtype=float32, or check the weights"
            )

    def begin(self, sums: Mapping[Key, FisherHistogram]) -> None:
        """Start a fold's sums where those of earlier samples, one fold for each site, ended."""
        for key, fisher in sums.items():
            size = BINS // max(fisher.layout.width, 1)
            self._sums[key], self._layout[key] = torch.from_numpy(fisher.dense(0, size)), fisher.layout
            self.tokens = int(fisher.tokens[0])

    def state(self) -> dict[str, Any]:
        """All that has been added so far, for `restore`."""
        layouts = {key: str(bins) for key, bins in self._layout.items()}
        return {"sums": self._sums, "layouts": layouts, "tokens": self.tokens}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on, bit for bit, where another's `state` was taken."""
        if state:
            self._sums, self.tokens = {key: sums.cpu() for key, sums in state["sums"].items()}, state["tokens"]
            self._layout = {key: layout(name) for key, name in state["layouts"].items()}

    def finish(self) -> dict[Key, FisherHistogram]:
        """The fold's sums; nothing is kept of them."""
        done = {
            key: FisherHistogram.from_dense(self._layout[key], sums.numpy(), self.tokens)
            for key, sums in self._sums.items()
        }
        self._sums, self._layout, self.tokens = {}, {}, 0
        return done
