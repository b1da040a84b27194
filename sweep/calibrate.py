"""One forward pass over all samples, fold by fold, with every site observed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sweep.config import Calibration
from sweep.histogram import Histogram
from sweep.models.kernels import kernels
from sweep.models.load import Model
from sweep.observer import Observer, SiteFold
from sweep.statistics import Key, SiteStatistics, Statistics
from sweep.taps import taps
from sweep.tokens import Tokens

Progress = Callable[[int, int], None]  # samples done, samples in all


@dataclass
class Timings:
    """Seconds: `forward_s` without what observing adds to it, `observe_s` that."""

    forward_s: float = 0.0
    observe_s: float = 0.0


def calibrate(model: Model, tokens: Tokens, calibration: Calibration, progress: Progress) -> tuple[Statistics, Timings]:
    """Statistics of every site of every layer over all tokens.

    Raises UsageError where a NaN or an infinity appears, TapError where a site did not fire."""
    timings, observer, done = Timings(), Observer(), 0
    finished: list[dict[Key, SiteFold]] = []

    def settle() -> None:
        start = time.perf_counter()
        observer.settle()
        timings.observe_s += time.perf_counter() - start

    begin = time.perf_counter()
    with (
        torch.inference_mode(),
        kernels(model.mixers, model.device) as conv,
        taps(model.mixers, observer, conv, settle) as fired,
    ):
        for fold in range(calibration.folds):
            for batch in batches(tokens, fold, calibration):
                ids = torch.from_numpy(np.stack([tokens.windows[i] for i in batch])).to(model.device)
                model.backbone(ids)
                fired.check(ids.numel())
                observer.check(batch)
                done += len(batch)
                progress(done, len(tokens.windows))
            finished.append(observer.finish())
    timings.forward_s = time.perf_counter() - begin - timings.observe_s
    samples = [len(range(fold, len(tokens.windows), calibration.folds)) for fold in range(calibration.folds)]
    return gather(model, finished, samples), timings


def batches(tokens: Tokens, fold: int, calibration: Calibration) -> Iterator[list[int]]:
    """Sample numbers of each forward pass of a fold.

    Samples are dealt in turn: fold k holds k, k + folds, …. A batch holds samples of one length only."""
    batch: list[int] = []
    for i in range(fold, len(tokens.windows), calibration.folds):
        full = len(batch) == calibration.batch_size
        if batch and (full or len(tokens.windows[i]) != len(tokens.windows[batch[0]])):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def gather(model: Model, folds: Sequence[dict[Key, SiteFold]], samples: Sequence[int]) -> Statistics:
    """Folds 0 … K-1 side by side."""
    sites = {}
    for mixer in model.mixers:
        weights = mixer.weight_absmax()
        for name in mixer.sites:
            parts = [fold[mixer.layer, name] for fold in folds]
            sites[mixer.layer, name] = SiteStatistics(
                folds=np.arange(len(folds), dtype=np.int32),
                samples=np.asarray(samples, np.int64),
                histogram=Histogram.stack([p.histogram for p in parts]),
                channel_absmax=np.stack([p.channel_absmax for p in parts]),
                channel_abs_sum=np.stack([p.channel_abs_sum for p in parts]),
                channel_text_mean_max=np.stack([p.channel_text_mean_max for p in parts]),
                weight_absmax=weights.get(name),
            )
    return Statistics(sites, dict(model.geometry))
