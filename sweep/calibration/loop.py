"""One forward pass over all samples, fold by fold, with every site observed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sweep.calibration.accumulator import SiteFold
from sweep.calibration.checkpoint import Checkpoint
from sweep.calibration.collect import Collect
from sweep.calibration.differentiate import differentiate
from sweep.calibration.finished import Finished
from sweep.calibration.gradients import Gradients
from sweep.calibration.observer import Observer
from sweep.calibration.taps import Fired, taps
from sweep.calibration.tokens import Tokens, in_batches
from sweep.config.knobs import Calibration
from sweep.core.progress import GRADIENTS, SAMPLES, Progress
from sweep.core.signals import deferred
from sweep.models.kernels.patch import kernels
from sweep.models.load import Model
from sweep.quantization.fisher import FisherHistogram
from sweep.quantization.histogram import Histogram
from sweep.quantization.site_statistics import SiteStatistics
from sweep.quantization.statistics import Statistics
from sweep.quantization.types import SiteKey


@dataclass
class Timings:
    """Seconds: `forward_s` without what observing adds to it, `observe_s` that, `fisher_s` for squared gradients."""

    forward_s: float = 0.0
    observe_s: float = 0.0
    fisher_s: float = 0.0


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
    gradients = Gradients(collect.groups, collect.shifts)
    folds = range(calibration.shard or 0, calibration.folds, 1 if calibration.shard is None else calibration.shards)
    wanted = [fold for fold in folds if _dealt(tokens, fold, calibration)]
    finished = Finished()
    for fold, saved in checkpoint.folds(wanted) if checkpoint else ():
        finished.add(fold, saved)
        del saved
    phases = {SAMPLES: _dealt, GRADIENTS: differentiated}
    total = {name: sum(len(of(tokens, fold, calibration)) for fold in wanted) for name, of in phases.items()}
    done = {name: sum(len(of(tokens, fold, calibration)) for fold in finished.folds) for name, of in phases.items()}

    def tell(phase: str) -> None:
        if phase == SAMPLES:
            progress(done[SAMPLES], total[SAMPLES])
        elif total[phase]:  # who counts samples alone is told of no other phase where there is none
            progress(done[phase], total[phase], phase)

    def observe(layer: int, site: str, values: Tensor) -> None:
        if not collect.groups and (not collect.shifts or (layer, site) in collect.shifts):
            observer(layer, site, values)
        for part, channels in collect.groups.get((layer, site), {}).items():
            observer(layer, part, values[..., channels])

    def settle() -> None:
        start = time.perf_counter()
        observer.settle()
        timings.observe_s += time.perf_counter() - start

    def observe_batch(batch: list[int], fired: Fired) -> None:
        ids = torch.from_numpy(np.stack([tokens.windows[i] for i in batch])).to(model.device)
        model.backbone(ids)
        fired.check(ids.numel())
        settle()
        observer.check(batch)

    def differentiate_sample(sample: int) -> None:
        start = time.perf_counter()
        differentiate(model, tokens.windows[sample], calibration.seed, sample, gradients, gradients.settle)
        gradients.tokens += len(tokens.windows[sample])
        timings.fisher_s += time.perf_counter() - start

    begin = time.perf_counter()
    with deferred() as signal, kernels(model.mixers, model.device, tensors=collect != Collect()) as convolve:

        def after(fold: int, number: int, phase: str) -> None:
            """Save what there is where it is time to, or where a signal has come; a later one waits for the next."""
            stop = bool(signal)
            if checkpoint and (stop or checkpoint.due()):
                checkpoint.save(fold, number, {"observed": observer.state_dict(), "differentiated": gradients.state()})
            if stop:
                tell(phase)
                signal.check()

        for phase in phases if done != total else ():  # every total is known before the first pass
            tell(phase)
        for fold in wanted:
            if fold in finished.folds:
                continue
            observer.begin(base.abs_sums(fold) if base else {})
            gradients.begin(base.fisher(fold) if base and calibration.fisher > tokens.since else {})
            before = _resume(checkpoint, fold, model.device, observer, gradients) if checkpoint else 0
            batched = list(batches(tokens, fold, calibration))
            with (
                torch.inference_mode(),
                taps(model.mixers, observe, convolve, collect.ssm_state, settle) as fired,
            ):
                for number, batch in enumerate(batched, start=1):
                    done[SAMPLES] += len(batch)
                    if number > before:
                        observe_batch(batch, fired)
                        after(fold, number, SAMPLES)
                    tell(SAMPLES)
            for number, sample in enumerate(differentiated(tokens, fold, calibration), start=len(batched) + 1):
                done[GRADIENTS] += 1
                if number > before:
                    differentiate_sample(sample)
                    after(fold, number, GRADIENTS)
                tell(GRADIENTS)
            with torch.inference_mode():  # where its tensors were made
                observed = observer.finish()
            part = gather(model, fold, len(_dealt(tokens, fold, calibration)), observed, gradients.finish())
            finished.add(fold, part)
            if checkpoint:
                checkpoint.add(fold, part)
            del part
        if checkpoint and (signal or calibration.shard is not None):
            checkpoint.keep()
        signal.check()
    timings.forward_s = time.perf_counter() - begin - timings.observe_s - timings.fisher_s
    merged = finished.merged()
    if base:
        merged = base.grown(merged) if merged else base
    assert merged  # knobs.Calibration has one fold at least, and each fold a sample
    return merged, timings


def _resume(checkpoint: Checkpoint, fold: int, device: torch.device, observer: Observer, gradients: Gradients) -> int:
    """Load the state that was saved of a fold, if any; returns the number of its batches that are done."""
    done, state = checkpoint.running(fold, device)
    try:
        if state:
            observer.load_state_dict(state["observed"])
    except ValueError as stale:
        print(f"the checkpoint of fold {fold} is not used ({stale}); it is computed again", file=sys.stderr, flush=True)
        return 0
    gradients.restore(state.get("differentiated", {}))
    return done


def _dealt(tokens: Tokens, fold: int, calibration: Calibration) -> range:
    """Sample numbers of a fold that are to pass. Samples are dealt in turn: fold k holds k, k + folds, …."""
    first = tokens.since + (fold - tokens.since) % calibration.folds
    return range(first, len(tokens.windows), calibration.folds)


def differentiated(tokens: Tokens, fold: int, calibration: Calibration) -> list[int]:
    """Sample numbers of a fold that are among the first `calibration.fisher`."""
    return [i for i in _dealt(tokens, fold, calibration) if i < calibration.fisher]


def batches(tokens: Tokens, fold: int, calibration: Calibration) -> Iterator[list[int]]:
    """Sample numbers of each forward pass of a fold. A batch holds samples of one length only."""
    return in_batches(tokens.outline.lengths, _dealt(tokens, fold, calibration), calibration.batch_size)


def gather(
    model: Model,
    fold: int,
    samples: int,
    observed: dict[SiteKey, SiteFold],
    gradients: dict[SiteKey, FisherHistogram] | None = None,
) -> Statistics:
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
                fisher=(gradients or {}).get((mixer.layer, name)),
            )
    return Statistics(sites, dict(model.geometry))
