"""One cell from configuration to files: the whole story on one page."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

from sweep.config.config import Config
from sweep.core.errors import UsageError
from sweep.runs import record as runs
from sweep.runs import tables as table
from sweep.runs import tracking, until
from sweep.runs.cost import predicted, standard
from sweep.runs.discovery import SCALES
from sweep.runs.passes import observe
from sweep.runs.record import RunRecord
from sweep.runs.results import Json, Results
from sweep.runs.schemas import write_table
from sweep.runs.status import Failure
from sweep.runs.tables import Tables
from sweep.runs.totals import Totals
from sweep.runs.tracking import TrackedRun


@dataclass(frozen=True, eq=False)
class Cell:
    """A finished cell: its directory, its run.json, its tables. hints: how to see it in trackers, a line each."""

    directory: Path
    record: RunRecord
    results: Results
    tables: Tables
    hints: list[str]

    @property
    def how(self) -> str:
        """The origin of the statistics, those of the second pass included: computed, or read from the store."""
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
    _keep_recipe(config, directory / runs.RECIPE)
    tracker = tracking.start(TrackedRun(directory, name, group, config))
    try:
        if config.calibration.tolerance is None:
            passes = observe(config, tracker.progress)
        else:
            each = partial(observe, report=tracker.progress)
            config, passes = until.reach(config, directory, asked, each, tracker.looked)
        statistics, results = passes.statistics, passes.results
        begin = time.perf_counter()
        factor = results.tokens.error_factor
        tables = table.build(statistics, config, passes.grouped, siblings, math.inf if factor is None else factor)
        results.timings["readout_s"] = time.perf_counter() - begin
        for field in fields(tables):
            if (columns := getattr(tables, field.name)) is not None:
                write_table(directory / f"{field.name}.parquet", columns)
        if (loss := predicted(tables, config.evaluate.sites)) and not (siblings or config.recipe):
            loss["standard"] = standard(statistics, config.format, config.evaluate.sites)
        totals = Totals.of(tables.scales, (directory / SCALES).stat().st_size)
        results = replace(results, loss=loss, totals=totals)
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


def _keep_recipe(config: Config, kept: Path) -> None:
    """A copy of the recipe that the cell follows; none that an earlier run in its directory has followed."""
    if config.chosen is None:
        kept.unlink(missing_ok=True)
    elif not (kept.exists() and kept.samefile(config.chosen.path)):
        shutil.copyfile(config.chosen.path, kept)
