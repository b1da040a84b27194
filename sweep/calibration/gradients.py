"""Sums of squared gradients, by the bins of the values they belong to.

They are float64, sample after sample, fold by fold. A CPU adds a sample's values one after the other; a CUDA device
adds up those of a bin exactly, for all sites of a hook at once (`weigh_cuda`), and is not waited for before the fold is
done or its state is saved. So either way sums are the same bit for bit however the work is cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sweep.calibration import counting
from sweep.calibration.accumulator import LAYOUTS, scaled
from sweep.calibration.observer import one_of_each
from sweep.config.knobs import Calibration
from sweep.core.errors import UsageError
from sweep.quantization.bins import BINS, Layout, layout
from sweep.quantization.fisher import FisherHistogram
from sweep.quantization.types import SiteKey

VERSION = 1  # of how labels are drawn and gradients rounded


def preimage(calibration: Calibration) -> dict[str, Any]:
    """The part of a calibration's identity that gradients make; empty where nothing is differentiated."""
    if not calibration.fisher:
        return {}
    return {"fisher": {"samples": calibration.fisher, "label_seed": calibration.seed, "version": VERSION}}


class Gradients:
    """Accumulates one fold. groups: per layer and site, channels that get sums of their own, and nothing else does.
    shifts: sites, or groups, whose values are told apart times a power of two (`quantization.window`); without groups
    nothing else gets sums."""

    def __init__(
        self,
        groups: Mapping[SiteKey, Mapping[str, NDArray[np.int64]]] | None = None,
        shifts: Mapping[SiteKey, int] | None = None,
    ) -> None:
        self._groups, self._shifts = groups or {}, shifts or {}
        self._sums: dict[SiteKey, Tensor] = {}  # float64, one a bin, where the values lie
        self._layout: dict[SiteKey, Layout] = {}
        self._waiting: list[tuple[SiteKey, Tensor, Tensor]] = []  # on a CUDA device: values and gradients
        self._strange: dict[SiteKey, Tensor] = {}  # there: int64 [1], 1 where a gradient was not finite
        self._digits: Tensor | None = None
        self.tokens = 0

    def __call__(self, layer: int, site: str, x: Tensor, g: Tensor) -> None:
        """Add the squares of the gradients g of the values x of one site; on a CUDA device `settle` does so, before
        they may change. Raises UsageError where one is not finite, or `state` and `finish` do."""
        if not self._groups and (not self._shifts or (layer, site) in self._shifts):
            self._add((layer, site), x, g)
        for part, channels in self._groups.get((layer, site), {}).items():
            own = torch.from_numpy(channels).to(x.device, non_blocking=True)
            self._add((layer, part), x[..., own], g[..., own])

    def _add(self, key: SiteKey, x: Tensor, g: Tensor) -> None:
        shift = self._shifts.get(key, 0)
        x = scaled(x, shift)  # the gradient stays the value's own: bins stand for unscaled values
        bins = LAYOUTS[x.dtype].times(shift).of_folds
        width = max(bins.width, 1)
        if key not in self._sums:
            self._sums[key] = torch.zeros(BINS // width, dtype=torch.float64, device=x.device)
            self._layout[key] = bins
        if counting.in_one_launch(x):
            self._waiting.append((key, x, g))
            return
        from sweep.calibration.count_cpu import weigh  # numba takes a moment, and is asked for only when it is needed

        if not weigh(x, g, self._sums[key], width):
            raise _strange(key)

    def settle(self) -> None:
        """Add what was handed over since the last call."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        from sweep.calibration import weigh_cuda

        device = waiting[0][1].device
        if self._digits is None or len(self._digits) < len(waiting):
            self._digits = weigh_cuda.digits(len(waiting), device)
        for launch in one_of_each([(key, (x, g)) for key, x, g in waiting]):
            for key in launch.keys() - self._strange.keys():
                self._strange[key] = torch.zeros(1, dtype=torch.int64, device=device)
            rows = [weigh_cuda.Weighed(*pair, self._sums[key], self._strange[key]) for key, pair in launch.items()]
            weigh_cuda.weigh(rows, self._digits)

    def _ask(self) -> None:
        """Raises UsageError where a gradient on a CUDA device was not finite; waits for it."""
        self.settle()
        if self._strange and any(seen := torch.cat(list(self._strange.values())).tolist()):
            raise _strange(next(key for key, strange in zip(self._strange, seen, strict=True) if strange))

    def begin(self, sums: Mapping[SiteKey, FisherHistogram]) -> None:
        """Start a fold's sums where those of earlier samples, one fold for each site, ended."""
        for key, fisher in sums.items():
            size = BINS // max(fisher.layout.width, 1)
            self._sums[key], self._layout[key] = torch.from_numpy(fisher.dense(0, size)), fisher.layout
            self.tokens = int(fisher.tokens[0])

    def state(self) -> dict[str, Any]:
        """All that has been added so far, for `restore`."""
        self._ask()
        layouts = {key: str(bins) for key, bins in self._layout.items()}
        return {"sums": self._sums, "layouts": layouts, "tokens": self.tokens}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on, bit for bit, where another's `state` was taken."""
        if state:
            self._sums, self.tokens = dict(state["sums"]), state["tokens"]
            self._layout = {key: layout(name) for key, name in state["layouts"].items()}

    def finish(self) -> dict[SiteKey, FisherHistogram]:
        """The fold's sums; nothing is kept of them."""
        self._ask()
        done = {
            key: FisherHistogram.from_dense(self._layout[key], sums.cpu().numpy(), self.tokens)
            for key, sums in self._sums.items()
        }
        self._sums, self._layout, self.tokens = {}, {}, 0
        return done


def _strange(key: SiteKey) -> UsageError:
    return UsageError(
        f"calibration.fisher: the gradient at layer {key[0]}, site {key[1]} is NaN or infinite. "
        "Try dtype=float32, or check the weights"
    )
