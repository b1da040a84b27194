"""The forward passes that a cell's scales are read off, each taken from the store or computed and stored."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sweep.config.config import Config
from sweep.core import provenance
from sweep.core.errors import out_of_memory
from sweep.core.progress import SAMPLES, Progress, progress, silent
from sweep.core.store import Damaged
from sweep.quantization import replicates
from sweep.quantization.statistics import Statistics
from sweep.runs.results import CalibrationRecord, DeviceRecord, ModelRecord, Results, TokensRecord

if TYPE_CHECKING:
    from sweep.calibration.collect import Collect
    from sweep.calibration.growth import Base
    from sweep.calibration.spec import Question  # imports torch, which a cell asks for only when it runs
    from sweep.calibration.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Passes:
    """statistics: of every site. grouped: of the channel groups, None if the cell has none. results: what run.json
    records of them: keys, tokens, device, seconds."""

    statistics: Statistics
    grouped: Statistics | None
    results: Results


def observe(config: Config, report: Progress) -> Passes:
    """All passes that a cell needs: the first; those sites again, scaled, that lie beyond float32's window of bins; its
    channel groups, which are known only once the first is. Raises UsageError for what a user can mend."""
    from sweep.calibration import collect
    from sweep.quantization import window

    statistics, results = _read(config, report)
    if (wanted := collect.rescaled(config, statistics)) is not None:
        _say_rescaled(config, list(wanted.shifts))
        again, more = _read(config, report, wanted)
        statistics = window.merged(statistics, again)
        results = _with(results, more, replace(results.calibration, rescaled=more.calibration))
    grouped = None
    if (wanted := collect.second_pass(config, statistics)) is not None:
        grouped, more = _read(config, report, wanted)
        results = _with(results, more, replace(results.calibration, grouped=more.calibration))
    return Passes(statistics, grouped, results)


def shard(config: Config) -> None:
    """Compute the folds of `calibration.shard` and leave them in the store's work area for whoever merges."""
    from sweep.calibration import spec

    asked = spec.of(config)
    part = f".shard-{config.calibration.shard}-of-{config.calibration.shards}"
    with asked.store.locked(asked.key, part):
        if asked.key not in asked.store:
            _compute(config, asked, silent, {})


def _say_rescaled(config: Config, sites: Sequence[tuple[int, str]]) -> None:
    (layer, site), others = sites[0], len(sites) - 1
    print(
        f"layer {layer}, site {site}" + (f" and {others} more" if others else "") + f": {config.dtype} values beyond "
        "[6.1e-05, 65504], where it is counted finely; these are observed again, scaled",
        file=sys.stderr,
        flush=True,
    )


def _with(first: Results, more: Results, calibration: CalibrationRecord) -> Results:
    """The results of one pass with a further one recorded and its seconds added."""
    timings = {name: spent + first.timings.get(name, 0.0) for name, spent in more.timings.items()}
    return replace(first, calibration=calibration, timings=timings)


def _read(config: Config, report: Progress, wanted: Collect | None = None) -> tuple[Statistics, Results]:
    """The statistics of one pass, from the store or computed, and what run.json records of them."""
    from sweep.calibration import spec

    asked = spec.of(config, wanted)
    timings = {"load_s": 0.0, "forward_s": 0.0, "observe_s": 0.0, "fisher_s": 0.0, "store_s": 0.0}
    statistics = _stored(asked, timings)
    cached = statistics is not None
    base = None
    if statistics is None:
        with asked.store.locked(asked.key):
            statistics = _stored(asked, timings, locked=True)  # whoever held the lock has it finished by now
            cached = statistics is not None
            if statistics is None:
                statistics, base = _compute(config, asked, report, timings)
                begin = time.perf_counter()
                asked.store.write(asked.key, statistics, base.record if base else None)
                timings["store_s"] += time.perf_counter() - begin
    key, windows = asked.key, asked.tokens
    factor = replicates.error_factor(windows.texts, config.calibration.folds)
    if windows.distinct < len(windows.windows):
        print(_repeated(windows, factor), file=sys.stderr, flush=True)
    values = sum(int(site.histogram.counts.sum()) for site in statistics.sites.values())
    return statistics, Results(
        CalibrationRecord(
            key.hash, key.preimage, str(asked.store.path(key)), cached, grown_from=base.record if base else None
        ),
        ModelRecord(
            config.model.name, key.preimage["model"], config.model.weights, {**asked.origin, **statistics.meta}
        ),
        TokensRecord(
            windows.sha256,
            windows.source,
            samples=len(windows.windows),
            seqlen=config.calibration.seqlen,
            count=windows.count,
            distinct=windows.distinct,
            error_factor=factor if math.isfinite(factor) else None,  # JSON has no infinity
        ),
        DeviceRecord(**provenance.device(config.device)),
        timings,
        {"tokens": windows.count, "values": values},
    )


def _repeated(windows: Tokens, factor: float) -> str:
    what = f"warning: only {windows.distinct} of {len(windows.windows)} samples are distinct, the others are copies; "
    if math.isfinite(factor):
        return what + f"errors are multiplied by {factor:.3g} for it. Take other text, or fewer samples"
    return what + "the folds hold the same text and no error can be told from them. Take other text, or fewer samples"


def _stored(asked: Question, timings: dict[str, float], locked: bool = False) -> Statistics | None:
    """The statistics in the store. A damaged entry counts as none; with the lock held it is moved away."""
    begin = time.perf_counter()
    try:
        return asked.store.read(asked.key)
    except Damaged as damage:
        if locked:
            aside = asked.store.set_aside(asked.key)
            print(f"damaged: {damage}. Moved to {aside.name}; computing it again", file=sys.stderr, flush=True)
        return None
    finally:
        timings["store_s"] += time.perf_counter() - begin


def _part(wanted: Collect) -> str:
    """The part of a calibration that a further pass is for; empty for the first pass."""
    return ", groups of channels" if wanted.groups else ", sites beyond float32's bins" if wanted.shifts else ""


def _compute(
    config: Config, asked: Question, report: Progress, timings: dict[str, float]
) -> tuple[Statistics, Base | None]:
    """The forward pass, from the last checkpoint on; all folds, or those of one shard; or layer by layer.

    Also returns the stored calibration of the first samples that it went on from."""
    from sweep.calibration import growth
    from sweep.calibration.checkpoint import Checkpoint
    from sweep.calibration.counting import require
    from sweep.calibration.layerwise import Streamed, calibrate_streamed
    from sweep.calibration.loop import calibrate
    from sweep.models import load

    load.check(config.device)
    require(config.device)
    tokens, before, work = asked.tokens, None, asked.store.work(asked.key)
    base = growth.base(asked.store, asked.key, tokens.outline)
    if base:
        tokens, before, work = replace(tokens, since=base.samples), base.statistics, base.work(work)
    elif near := asked.store.nearest(asked.key):
        print(f"{asked.key} is not in the store: {near}", file=sys.stderr, flush=True)
    knobs = f"lower calibration.batch_size={config.calibration.batch_size}, use dtype=bfloat16 or model.stream=true"
    each = "x layers" if config.model.stream else ""
    with progress(f"calibrating {config.model.name}{_part(asked.wanted)}", each) as show, out_of_memory(knobs):

        def both(done: int, total: int, phase: str = SAMPLES) -> None:
            show(done, total, phase)
            report(done, total, phase)

        if config.model.stream:
            statistics, spent = calibrate_streamed(
                Streamed(config.model, config.device, config.dtype, work / "layers"),
                tokens,
                config.calibration,
                both,
                asked.wanted,
                before,
            )
        else:
            begin = time.perf_counter()
            model = load.load(config.model, config.device, config.dtype)
            timings["load_s"] = time.perf_counter() - begin
            checkpoint = Checkpoint(work, config.calibration.checkpoint)
            statistics, spent = calibrate(model, tokens, config.calibration, both, checkpoint, asked.wanted, before)
    timings.update(vars(spent))
    return statistics, base
