"""A cell that calibrates until its scales are known: step by step, every step a calibration as any other.

Cells that ask the same of the activations stop after the same samples, else they could not be compared: the most
demanding of them decides. What was decided is kept in the store, by all that was asked, so that one of the cells
calibrates and the others read. Nothing else is kept: a step is found in the store, or gone on with, as any calibration.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sweep.calibration import until
from sweep.calibration.until import Decision, Errors, Goal, Look
from sweep.config.config import Config
from sweep.config.knobs import Grouping
from sweep.core.errors import UsageError
from sweep.core.store import Damaged, Store
from sweep.core.store_key import Key
from sweep.quantization import formats, granularity, site_scales, sites
from sweep.quantization.methods import registry as methods
from sweep.quantization.statistics import Statistics
from sweep.runs.passes import Passes
from sweep.runs.results import Json
from sweep.runs.schemas import UNTIL, write_table

FILE = "until.parquet"


def asked(config: Config) -> Json:
    """A cell's demand on its calibration as plain JSON, which the plan hands to the cell that calibrates."""
    names = ("method", "alpha", "format", "granularity", "recipe")
    return {**{name: getattr(config, name) for name in names}, "grouping": asdict(config.grouping)}


def reach(
    config: Config,
    directory: Path,
    others: Sequence[Json],
    observe: Callable[[Config], Passes],
    told: Callable[[Look], None],
) -> tuple[Config, Passes]:
    """Calibrate until the goal of calibration.tolerance is reached, or all samples are.

    directory: of the run, where the looks that decided are written. others: `asked` of the cells that share the
    calibration, this one among them or not. observe: the passes of a cell of a fixed number of samples. told: is called
    with every look at the cell that decides. Returns the cell of the fixed number that was reached, and its passes,
    whose results tell what was decided. Raises UsageError as `observe` does."""
    from sweep.calibration import spec

    calibration = config.calibration
    goal = Goal(calibration.tolerance, calibration.tolerance_share)
    cells = {_setting(cell): cell for cell in (config, *(_of(config, other) for other in others))}
    question, store = spec.key(config), Store(Path(config.store).expanduser())
    digests = sorted(cell.chosen.digest for cell in cells.values() if cell.chosen)
    named = {"question": question.preimage, "cells": sorted(cells), "recipes": digests, "rule": until.VERSION}
    key = Key(f"until-{question.prefix}", named)
    passes: Passes | None = None
    spent: dict[str, float] = {}

    def of(samples: int) -> Config:
        return replace(config, calibration=replace(calibration, samples=samples, tolerance=None))

    with store.locked(key):
        looks = _stored(store, key)
        if looks is None:
            looks, before = [], dict[str, Errors]()
            for samples in spec.counts(config):
                passes = observe(of(samples))
                spent = _sum(spent, passes.results.timings)
                fixed = {name: replace(cell, calibration=of(samples).calibration) for name, cell in cells.items()}
                errors = {
                    name: _errors(cell, observe(cell) if cell.second_pass else passes) for name, cell in fixed.items()
                }
                complete = samples >= calibration.fisher
                now = [Look.at(samples, name, goal, errors[name], before.get(name), complete) for name in errors]
                before = errors
                looks += now
                deciding = until.most_demanding(now, goal)
                told(deciding)
                if deciding.demand(goal) <= 1:
                    break
                if samples < calibration.samples:
                    print(_going_on(deciding, goal), file=sys.stderr, flush=True)
            store.put(key, lambda draft: _write(draft / FILE, looks))
    decided = Decision(question.hash, goal, calibration.samples, len(cells), tuple(_deciding(looks, goal)))
    settled = of(decided.last.samples)
    passes = passes or observe(settled)
    record = replace(passes.results.calibration, until=decided)
    results = replace(passes.results, calibration=record, timings=spent or passes.results.timings)
    _write(directory / FILE, decided.looks)
    return settled, replace(passes, results=results)


def _deciding(looks: Iterable[Look], goal: Goal) -> list[Look]:
    after: dict[int, list[Look]] = {}
    for look in looks:
        after.setdefault(look.samples, []).append(look)
    return [until.most_demanding(after[samples], goal) for samples in sorted(after)]


def _stored(store: Store, key: Key) -> list[Look] | None:
    try:
        if entry := store.find(key):
            return [Look.from_dict(row) for row in pq.read_table(entry / FILE).to_pylist()]
    except (Damaged, OSError, ValueError, KeyError, TypeError) as damage:
        aside = store.set_aside(key)
        print(f"damaged: {damage}. Moved to {aside.name}; deciding again", file=sys.stderr, flush=True)
    return None


def _write(path: Path, looks: Sequence[Look]) -> None:
    write_table(path, pa.Table.from_pylist([vars(look) for look in looks], UNTIL))


def _going_on(look: Look, goal: Goal) -> str:
    loss = "" if look.loss_error is None else f", predicted loss to {until.percent(look.loss_error)}"
    return (
        f"{look.samples} samples: {look.settled:.0%} of the scales of {look.cell} are known to "
        f"{until.percent(goal.tolerance)} (asked: {goal.share:.0%}){loss}; going on"
    )


def _of(config: Config, other: Mapping[str, Any]) -> Config:
    return replace(config, **{**other, "grouping": Grouping(**other["grouping"])})


def _setting(config: Config) -> str:
    """The setting of a cell, as far as cells of one calibration can differ."""
    alpha = [] if config.effective_alpha is None else [f"{config.effective_alpha:.10g}"]
    groups = [json.dumps(list(asdict(config.grouping).values()))] if config.granularity == "group" else []
    recipe = [config.chosen.digest[:8]] if config.chosen else []
    return " ".join([config.method, *alpha, config.format, config.granularity, *groups, *recipe])


def _sum(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: one.get(name, 0.0) + spent for name, spent in other.items()}


def _errors(cell: Config, passes: Passes) -> Errors:
    """The errors of a cell's scales and of its predicted loss, from the folds."""
    factor = passes.results.tokens.error_factor
    grouped = passes.grouped if cell.second_pass else None
    return read(cell, passes.statistics, grouped, math.inf if factor is None else factor)


def read(cell: Config, statistics: Statistics, grouped: Statistics | None, factor: float) -> Errors:
    """The relative standard errors of a cell that statistics tell, grouped ones where it has a second pass; factor:
    what they are multiplied by, since samples repeat. The loss is that of `evaluate.sites`."""
    splits, _ = granularity.split(statistics, cell.granularity, cell.grouping)
    places: list[tuple[int, str]] = []
    errors: list[NDArray[np.float64]] = []
    loss: NDArray[np.float64] | float = 0.0
    for (layer, name), site in statistics.sites.items():
        if not sites.named(name).quantized:
            continue
        choice, split = cell.choice(layer, name), splits.get((layer, name))
        if split and not grouped:
            reading = site_scales.of_maxima(site, split, formats.named(choice.format), factor)
        else:
            parts = [(site_scales.WHOLE, site.unprepared())]
            if split and grouped:
                parts = [
                    (place, grouped.sites[layer, granularity.name(name, place)].unprepared()) for place, _ in split
                ]
            try:
                reading = site_scales.of_histograms(
                    parts, methods.named(choice.method), choice.alpha, formats.named(choice.format), factor
                )
            except UsageError as error:
                raise UsageError(f"layer {layer}, site {name}: {error}") from error
        scale = reading.scale[:, 0]
        known = scale > 0  # of nothing but zeros there is nothing to be sure of
        relative = np.divide(reading.scale_se, scale, out=np.zeros_like(scale), where=known)[known]
        errors.append(np.where(np.isfinite(relative), relative, np.inf))
        places += [(layer, name)] * int(known.sum())
        if name in cell.evaluate.sites:
            loss = loss + reading.loss.sum(0)
    return Errors(places, np.concatenate(errors), _relative(loss))


def _relative(loss: NDArray[np.float64] | float) -> float | None:
    """The relative standard error of a sum and its replicates, [1 + K]."""
    if isinstance(loss, float) or not np.isfinite(loss[0]):
        return None
    error = float(methods.jackknife_error(loss[1:]))
    return error / float(loss[0]) if loss[0] > 0 and np.isfinite(error) else math.inf if loss[0] > 0 else 0.0
