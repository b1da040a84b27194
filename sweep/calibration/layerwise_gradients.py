"""Squared gradients one layer at a time: what enters each layer rests on disk, and the backward pass goes from the
last layer to the first, computing each again from what entered it with the gradient of what left it in hand.

Memory is a layer's and one sample's; the sums are those of the whole network, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sweep.calibration.collect import Collect
from sweep.calibration.differentiate import differentiate_through, log_likelihood_gradient
from sweep.calibration.gradients import Gradients
from sweep.calibration.loop import differentiated
from sweep.calibration.spill import reading, writing
from sweep.calibration.tokens import Tokens
from sweep.config.knobs import Calibration
from sweep.core.signals import deferred
from sweep.models.kernels.patch import kernels
from sweep.models.load import Model
from sweep.models.mixer import mixers
from sweep.quantization.fisher import FisherHistogram
from sweep.quantization.statistics import Statistics
from sweep.quantization.types import SiteKey

Report = Callable[[], None]  # a sample is done


@dataclass(frozen=True)
class LayerwiseGradients:
    """The samples that are differentiated, in the work area of a streamed calibration. layers: how many there are.
    first: the first that has a mixer; what enters it, and all before, has no gradient."""

    work: Path
    layers: int
    first: int
    tokens: Tokens
    calibration: Calibration
    device: torch.device

    @property
    def samples(self) -> int:
        """Number of samples to be differentiated."""
        return max(self.calibration.fisher - self.tokens.since, 0)

    def entering(self, layer: int) -> Path:
        """File of the hidden states that enter a layer, sample by sample; for the number after the last layer, of those
        that leave it."""
        return self.work / f"entering-{layer:03}.bin"

    def slope(self, layer: int) -> Path:
        """The gradient by what enters a layer."""
        return self.work / f"slope-{layer:03}.bin"

    def done(self, layer: int) -> Path:
        """The statistics of a layer with its squared gradients."""
        return self.work / f"differentiated-{layer:03}.parquet"

    def embed(self, table: Tensor) -> None:
        """Write what enters the first layer."""
        with torch.inference_mode(), writing(self.entering(0)) as write:
            for _, sample in self._samples():
                ids = torch.from_numpy(self.tokens.windows[sample])[None].to(self.device)
                write(nn.functional.embedding(ids, table))

    def forward(self, layer: int, block: Any) -> None:
        """Write what enters the next layer."""
        with (
            deferred() as signal,
            torch.inference_mode(),
            kernels(mixers(block), self.device),
            reading(self.entering(layer)) as read,
            writing(self.entering(layer + 1)) as write,
        ):
            for _ in self._samples():
                write(block(read().to(self.device)))
                signal.check()

    def resume(self) -> int:
        """Number of layers still to do; the last layers are done first."""
        return next((layer for layer in reversed(range(self.layers)) if not self.done(layer).exists()), -1) + 1

    def start(self, model: Model, leave: Callable[[Tensor], Tensor]) -> None:
        """Write the gradient by what leaves the last layer. leave: from that to what enters the head."""
        with (
            deferred() as signal,
            reading(self.entering(self.layers)) as read,
            writing(self.slope(self.layers)) as write,
        ):
            for _, sample in self._samples():
                hidden = read().to(self.device).requires_grad_()
                states = leave(hidden)
                slope = log_likelihood_gradient(model, states[0].detach(), self.calibration.seed, sample)
                write(*torch.autograd.grad(states, hidden, slope[None]))
                signal.check()

    def backward(self, layer: int, block: Any, observed: Statistics, collect: Collect, report: Report) -> None:
        """Give a layer's statistics its squared gradients, and write the gradient by what enters it.

        Raises UsageError as `differentiate` does."""
        inside, folds = tuple(mixers(block)), []
        gradients = Gradients(collect.groups, collect.shifts)
        with (
            deferred() as signal,
            kernels(inside, self.device),
            reading(self.entering(layer)) as read,
            reading(self.slope(layer + 1)) as read_slope,
            writing(self.slope(layer)) as write,
        ):

            def slope(_: Tensor) -> Tensor:
                return read_slope().to(self.device)

            for fold in range(self.calibration.folds):
                gradients.begin(observed.fisher(fold))
                for sample in differentiated(self.tokens, fold, self.calibration):
                    tokens = len(self.tokens.windows[sample])
                    if layer >= self.first:
                        hidden = read().to(self.device).requires_grad_(layer > self.first)
                        differentiate_through(
                            inside, partial(block, hidden), slope, tokens, gradients, gradients.settle
                        )
                        if hidden.grad is not None:
                            write(hidden.grad)
                    gradients.tokens += tokens
                    report()
                    signal.check()
                folds.append(gradients.finish())
        self._save(layer, observed, folds)
        self.entering(layer).unlink()
        self.slope(layer + 1).unlink()

    def _save(self, layer: int, observed: Statistics, folds: list[dict[SiteKey, FisherHistogram]]) -> None:
        sites = {
            key: replace(site, fisher=FisherHistogram.merge([fold[key] for fold in folds])) if key in folds[0] else site
            for key, site in observed.sites.items()
        }
        draft = self.done(layer).with_suffix(".draft")
        Statistics(sites, observed.meta).save(draft)
        draft.rename(self.done(layer))

    def _samples(self) -> Iterator[tuple[int, int]]:
        """Fold and number of each sample."""
        for fold in range(self.calibration.folds):
            for sample in differentiated(self.tokens, fold, self.calibration):
                yield fold, sample
