"""One cell from configuration to files: the whole story on one page."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.calibration.cache import Damaged
from sweep.config.config import Config
from sweep.core import provenance
from sweep.core.errors import UsageError, out_of_memory
from sweep.core.progress import progress
from sweep.quantization import replicates
from sweep.quantization.statistics import Statistics
from sweep.runs import record as runs
from sweep.runs import tables as table
from sweep.runs import tracking, until
from sweep.runs.cost import predicted, standard
from sweep.runs.record import Failure, RunRecord
from sweep.runs.results import CalibrationRecord, DeviceRecord, Json, ModelRecord, Results, TokensRecord
from sweep.runs.schemas import write_table
from sweep.runs.tables import Tables
from sweep.runs.tracking import TrackedRun
from sweep.runs.until import Passes

if TYPE_CHECKING:
    from sweep.calibration.collect import Collect
    from sweep.calibration.growth import Base
    from sweep.calibration.spec import Question  # imports torch, which a cell asks for only when it runs
    from sweep.calibration.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Cell:
    """A finished cell: where it lies, what run.json says, its tables, and how to see it in trackers."""

    directory: Path
    record: RunRecord
    results: Results
    tables: Tables
    hints: list[str]

    @property
    def how(self) -> str:
        """How its statistics were come by, those of its groups' second pass included."""
        first = self.results.calibration
        if first.grouped and not first.grouped.cached:
            return "read from the store, second pass calibrated" if first.cached else "calibrated in two passes"
        return "read from the store" if first.cached else "calibrated"


def run(config: Config, directory: Path, group: str, siblings: bool = False, asked: Sequence[Json] = ()) -> Cell:
    """Calibrate (or read the calibration from the store), read the scales off it, write and log everything.

    directory: the run's own. group: the sweep it belongs to. siblings: whether this process may have further cells of
    the same calibration to run; then it stays in memory, ready to be read. asked: what those cells ask, where
    calibration.tolerance lets the most demanding one decide (`until.asked`). Raises UsageError for what a user can
    mend; the run's record then says `failed`, with the error."""
    tracking.check(config.wandb.mode)
    record = runs.start(directory, runs.describe(config, group))
    name = " ".join(filter(None, (os.environ.get("WANDB_NAME"), config.label if siblings else ""))) or config.label
    if recipe := config.chosen:
        shutil.copyfile(recipe.path, directory / runs.RECIPE)
    tracker = tracking.start(TrackedRun(directory, name, group, config))
    try:
        if config.calibration.tolerance is None:
            statistics, grouped, results = _passes(config, tracker.progress)
        else:
            config, (statistics, grouped, results), decided = until.reach(
                config,
                asked,
                partial(_passes, report=tracker.progress),
                partial(_second_pass, report=tracker.progress),
                tracker.looked,
            )
            until.write(directory, decided)
            results = replace(results, calibration=replace(results.calibration, until=decided))
        begin = time.perf_counter()
        factor = results.tokens.error_factor
        tables = table.build(statistics, config, grouped, siblings, math.inf if factor is None else factor)
        results.timings["readout_s"] = time.perf_counter() - begin
        for field in fields(tables):
            if (columns := getattr(tables, field.name)) is not None:
                write_table(directory / f"{field.name}.parquet", columns)
        if (loss := predicted(tables, config.evaluate.sites)) and not (siblings or config.recipe):
            loss["standard"] = standard(statistics, config.format, config.evaluate.sites)
        results = replace(results, loss=loss)
        if config.evaluate:
            from sweep.evaluation.evaluate import evaluate

            evaluation, texts = evaluate(config, statistics, tables.scales)
            results = replace(results, evaluation=evaluation)
            write_table(directory / "evaluation.parquet", texts)
        trackers = tracker.records
        results = replace(results, wandb=trackers.pop("wandb", None), trackers=trackers)
        record = runs.finish(directory, record, results)
    except BaseException as error:
        with suppress(OSError):  # else it would hide what went wrong
            runs.fail(directory, record, Failure.of(error))
        tracker.finish(failed=True)
        if isinstance(error, OSError) and not directory.is_dir():
            raise UsageError(
                f"run directory {directory} was deleted while the cell ran; the calibration is in the store: "
                "start the cell again"
            ) from error
        raise
    try:  # the cell is finished whatever becomes of its W&B run, which can be replayed from the files
        tracker.results(directory)
    finally:
        tracker.finish()
    return Cell(directory, record, results, tables, tracker.hints)


def _passes(config: Config, report: Callable[[int, int], None]) -> Passes:
    """The statistics of a cell, those of its groups, None if it needs none, and what the run records of both."""
    statistics, results = _calibration(config, report)
    statistics, results = _rescaled(config, statistics, results, report)
    grouped, results = _second_pass(config, statistics, results, report)
    return statistics, grouped, results


def _rescaled(
    config: Config, first: Statistics, results: Results, report: Callable[[int, int], None]
) -> tuple[Statistics, Results]:
    """The statistics with those sites observed again that lie beyond the window of float32's bins."""
    from sweep.calibration import collect
    from sweep.quantization import window

    if (wanted := collect.rescaled(config, first)) is None:
        return first, results
    (layer, site), others = next(iter(wanted.shifts)), len(wanted.shifts) - 1
    print(
        f"layer {layer}, site {site}" + (f" and {others} more" if others else "") + f": {config.dtype} values beyond "
        "[6.1e-05, 65504], where it is counted finely; these are observed again, scaled",
        file=sys.stderr,
        flush=True,
    )
    again, more = _calibration(config, report, wanted)
    calibration = replace(results.calibration, rescaled=more.calibration)
    return window.merged(first, again), replace(results, calibration=calibration, timings=_sum(results, more))


def _second_pass(
    config: Config, first: Statistics, results: Results, report: Callable[[int, int], None]
) -> tuple[Statistics | None, Results]:
    """The statistics of the cell's groups, None if it needs none."""
    from sweep.calibration import collect

    if (wanted := collect.second_pass(config, first)) is None:
        return None, results
    grouped, more = _calibration(config, report, wanted)
    calibration = replace(results.calibration, grouped=more.calibration)
    return grouped, replace(results, calibration=calibration, timings=_sum(results, more))


def _sum(one: Results, other: Results) -> dict[str, float]:
    return {name: spent + one.timings.get(name, 0.0) for name, spent in other.timings.items()}


def _calibration(
    config: Config, report: Callable[[int, int], None], wanted: Collect | None = None
) -> tuple[Statistics, Results]:
    """The statistics that the cell is read off, and what the run records of them."""
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
                statistics, base = _observe(config, asked, report, timings)
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


def _observe(
    config: Config, asked: Question, report: Callable[[int, int], None], timings: dict[str, float]
) -> tuple[Statistics, Base | None]:
    """The forward pass, from the last checkpoint on; all folds, or those of one shard; or layer by layer.

    Also returns the stored calibration of the first samples that it went on from."""
    from sweep.calibration import growth
    from sweep.calibration.checkpoint import Checkpoint
    from sweep.calibration.layerwise import calibrate_streamed
    from sweep.calibration.loop import calibrate
    from sweep.calibration.observer import require
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
    with progress(f"calibrating {config.model.name}") as show, out_of_memory(knobs):

        def both(done: int, total: int) -> None:
            show(done, total)
            report(done, total)

        if config.model.stream:
            statistics, spent = calibrate_streamed(
                config.model,
                config.device,
                config.dtype,
                tokens,
                config.calibration,
                both,
                work / "layers",
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


def shard(config: Config) -> None:
    """Compute the folds of `calibration.shard` and leave them in the store's work area for whoever merges."""
    from sweep.calibration import spec

    asked = spec.of(config)
    part = f".shard-{config.calibration.shard}-of-{config.calibration.shards}"
    with asked.store.locked(asked.key, part):
        if asked.key not in asked.store:
            _observe(config, asked, lambda done, total: None, {})
