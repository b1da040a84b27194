"""One forward pass over all samples, fold by fold, with every site observed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sweep.calibration.checkpoint import Checkpoint
from sweep.calibration.collect import Collect
from sweep.calibration.observer import Observer, SiteFold
from sweep.calibration.taps import taps
from sweep.calibration.tokens import Tokens, batched
from sweep.config.knobs import Calibration
from sweep.core.signals import deferred
from sweep.models.kernels.patch import kernels
from sweep.models.load import Model
from sweep.quantization.histogram import Histogram
from sweep.quantization.site_statistics import SiteStatistics
from sweep.quantization.statistics import Key, Statistics

Progress = Callable[[int, int], None]  # samples done, samples in all


@dataclass
class Timings:
    """Seconds: `forward_s` without what observing adds to it, `observe_s` that."""

    forward_s: float = 0.0
    observe_s: float = 0.0


def calibrate(
    model: Model,
    tokens: Tokens,
    calibration: Calibration,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
    collect: Collect | None = None,
    base: Statistics | None = None,
) -> tuple[Statistics, Timings]:
    """Statistics of every site of every layer over all tokens, or over the folds of `calibration.shard`.

    collect: what to gather beyond the plain statistics. base: what the samples before `tokens.since` hold, which the
    others are added to. checkpoint: where to go on from and to save to; the
    result is the same bit for bit, however often it was stopped. Raises UsageError where a NaN or an infinity
    appears, TapError where a site did not fire, Interrupted, with a checkpoint saved, after a signal."""
    collect = collect or Collect()
    timings, observer = Timings(), Observer(collect.quantiles, collect.shifts)
    folds = range(calibration.shard or 0, calibration.folds, 1 if calibration.shard is None else calibration.shards)
    wanted = [fold for fold in folds if _dealt(tokens, fold, calibration)]
    finished: set[int] = set()
    found: Statistics | None = None  # what they hold together

    def finish(fold: int, part: Statistics) -> None:
        nonlocal found  # merged at once: a float32 fold by itself takes twice as much
        found = Statistics.merge([found, part]) if found else part
        finished.add(fold)

    for fold, saved in checkpoint.folds(wanted) if checkpoint else ():
        finish(fold, saved)
        del saved
    total = sum(len(_dealt(tokens, fold, calibration)) for fold in wanted)
    done = sum(len(_dealt(tokens, fold, calibration)) for fold in finished)

    def observe(layer: int, site: str, values: Tensor) -> None:
        if not collect.groups and (not collect.shifts or (layer, site) in collect.shifts):
            observer(layer, site, values)
        for part, channels in collect.groups.get((layer, site), {}).items():
            observer(layer, part, values[..., channels])

    def settle() -> None:
        start = time.perf_counter()
        observer.settle()
        timings.observe_s += time.perf_counter() - start

    begin = time.perf_counter()
    with (
        deferred() as signal,
        torch.inference_mode(),
        kernels(model.mixers, model.device) as convolve,
        taps(model.mixers, observe, convolve, collect.ssm_state, settle) as fired,
    ):
        for fold in wanted:
            if fold in finished:
                continue
            before, state = checkpoint.running(fold, model.device) if checkpoint else (0, {})
            observer.begin(base.abs_sums(fold) if base else {})
            observer.restore(state)
            for number, batch in enumerate(batches(tokens, fold, calibration), start=1):
                stop = False
                if number > before:
                    ids = torch.from_numpy(np.stack([tokens.windows[i] for i in batch])).to(model.device)
                    model.backbone(ids)
                    fired.check(ids.numel())
                    settle()
                    observer.check(batch)
                    stop = bool(signal)  # one that comes later waits for the next batch
                    if checkpoint and (stop or checkpoint.due()):
                        checkpoint.save(fold, number, observer.state())
                done += len(batch)
                progress(done, total)
                if stop:
                    signal.check()
            part = gather(model, fold, len(_dealt(tokens, fold, calibration)), observer.finish())
            finish(fold, part)
            if checkpoint:
                checkpoint.add(fold, part)
            del part
        if checkpoint and (signal or calibration.shard is not None):
            checkpoint.keep()
        signal.check()
    timings.forward_s = time.perf_counter() - begin - timings.observe_s
    if base:
        found = base.grown(found) if found else base
    assert found  # knobs.Calibration has one fold at least, and each fold a sample
    return found, timings


def _dealt(tokens: Tokens, fold: int, calibration: Calibration) -> range:
    """Sample numbers of a fold that are to pass. Samples are dealt in turn: fold k holds k, k + folds, …."""
    first = tokens.since + (fold - tokens.since) % calibration.folds
    return range(first, len(tokens.windows), calibration.folds)


def batches(tokens: Tokens, fold: int, calibration: Calibration) -> Iterator[list[int]]:
    """Sample numbers of each forward pass of a fold. A batch holds samples of one length only."""
    return batched(tokens.outline.lengths, _dealt(tokens, fold, calibration), calibration.batch_size)


def gather(model: Model, fold: int, samples: int, observed: dict[Key, SiteFold]) -> Statistics:
    """The statistics of one fold that holds so many samples, sites in the order of the data flow."""
    sites = {}
    for mixer in model.mixers:
        weights = mixer.weight_absmax()
        names = [name for layer, name in observed if layer == mixer.layer]
        usual = [name for name in mixer.sites if name in names]
        for name in (*usual, *(n for n in names if n not in usual)):
            part = observed[mixer.layer, name]
            whole = Histogram.stack([part.histogram])
            of_folds = whole.layout.of_folds
            sites[mixer.layer, name] = SiteStatistics(
                folds=np.array([fold], np.int32),
                samples=np.array([samples], np.int64),
                histogram=whole.coarser(of_folds),
                channel_absmax=part.channel_absmax[None],
                channel_abs_sum=part.channel_abs_sum[None],
                channel_text_mean_max=part.channel_text_mean_max[None],
                weight_absmax=weights.get(name.partition("[")[0]),
                text_alphas=part.text_alphas,
                text_quantiles=(part.text_quantiles,) if len(part.text_alphas) else (),
                pooled=None if of_folds == whole.layout else whole,
            )
    return Statistics(sites, dict(model.geometry))
