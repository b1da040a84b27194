"""One cell from configuration to files: the whole story on one page."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sweep import provenance, runs, store, table, track
from sweep.config import Config
from sweep.progress import progress
from sweep.statistics import SCHEMA, Statistics
from sweep.table import Tables


@dataclass(frozen=True, eq=False)
class Cell:
    """A finished cell: where it lies, its run.json, its tables, and how to see its W&B run."""

    directory: Path
    record: dict[str, Any]
    tables: Tables
    wandb_hint: str | None


def run(config: Config, directory: Path, group: str) -> Cell:
    """Calibrate (or read the calibration from the store), read the scales off it, write and log everything.

    directory: the run's own. group: the sweep it belongs to. Raises UsageError for what a user can mend;
    the run's record then says `failed`, with the error."""
    record = runs.start(directory, _identity(config, group))
    tracker = track.start(config.wandb, directory, config.label, config.wandb.group or group, config.to_dict())
    try:
        statistics, calibration = _calibration(config, tracker.progress)
        begin = time.perf_counter()
        tables = table.build(statistics, config)
        calibration["timings"]["readout_s"] = time.perf_counter() - begin
        for field in fields(tables):
            if (found := getattr(tables, field.name)) is not None:
                runs.write_table(directory / f"{field.name}.parquet", found)
        record = runs.finish(directory, {**record, **calibration, "wandb": tracker.record})
        tracker.results(directory)
    except BaseException as error:
        runs.finish(directory, record, error=f"{type(error).__name__}: {error}")
        tracker.finish(failed=True)
        raise
    tracker.finish()
    return Cell(directory, record, tables, tracker.hint)


def _identity(config: Config, group: str) -> dict[str, Any]:
    """What is known of a run before it starts."""
    return {
        "name": config.label,
        "sweep": group,
        "config": config.to_dict(),
        "versions": provenance.versions(),
        "git": provenance.git(),
        "evaluation": None,
        "wandb": None,
    }


def _calibration(config: Config, report: Callable[[int, int], None]) -> tuple[Statistics, dict[str, Any]]:
    """The statistics that the cell is read off, and what the run records of them."""
    from sweep import tokens
    from sweep.models import load

    identity = load.identity(config.model)
    windows = tokens.load(config.data, load.encoder(config.model), config.calibration)
    key = store.Key(
        prefix=f"{config.model.name}-{config.data.name}-{config.calibration.samples}x{config.calibration.seqlen}",
        preimage={
            "schema": SCHEMA,
            "model": identity,
            "tokens": windows.sha256,
            "batch_size": config.calibration.batch_size,
            "folds": config.calibration.folds,
            "dtype": config.dtype,
            "backend": load.backend(config.model, config.device),
        },
    )
    place = Path(config.store)
    timings = {"load_s": 0.0, "forward_s": 0.0, "observe_s": 0.0}
    statistics = store.read(place, key)
    cached = statistics is not None
    if statistics is None:
        from sweep.calibrate import calibrate

        begin = time.perf_counter()
        model = load.load(config.model, config.device, config.dtype)
        timings["load_s"] = time.perf_counter() - begin
        with progress(f"calibrating {config.model.name}") as show:

            def both(done: int, total: int) -> None:
                show(done, total)
                report(done, total)

            statistics, spent = calibrate(model, windows, config.calibration, both)
        timings.update(vars(spent))
        store.write(place, key, statistics)
    return statistics, {
        "calibration": {
            "key": key.hash,
            "preimage": key.preimage,
            "path": str(place / str(key)),
            "cached": cached,
        },
        "model": {"name": config.model.name, "identity": identity, "weights": "trained", **statistics.meta},
        "tokens": {
            "sha256": windows.sha256,
            "data": windows.source,
            "samples": len(windows.windows),
            "seqlen": config.calibration.seqlen,
            "count": windows.count,
        },
        "device": provenance.device(config.device),
        "timings": timings,
        "counts": {
            "tokens": windows.count,
            "values": sum(int(site.histogram.counts.sum()) for site in statistics.sites.values()),
        },
    }
