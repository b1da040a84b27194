"""Finished cells as the comparison takes them, read from their run.json, and the directories that are none."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from sweep.quantization.methods.registry import METHODS
from sweep.runs import record as runs
from sweep.runs.discovery import SCALES
from sweep.runs.record import RecordError, RunRecord
from sweep.runs.results import Json, Results
from sweep.runs.status import RunStatus
from sweep.runs.totals import Totals


@dataclass(frozen=True)
class Problem:
    """A directory that looks like a cell and cannot be compared. kind: `failed`, `unfinished` or `damaged`."""

    path: Path
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}, {self.reason}"


@dataclass(frozen=True)
class Cell:
    """One finished cell. `alpha` is null where the method ignores it; `asked_alpha` is what was asked for.

    tokens, identity, dtype and sizes say what the calibration observed: cells that agree in all of them are
    comparable. `key` names the calibration itself: cells that share it share its folds.
    """

    path: Path
    name: str
    sweep: str
    model: str
    method: str
    alpha: float | None
    asked_alpha: float | None
    format: str
    granularity: str
    data: str
    key: str
    tokens: str
    identity: str
    weights: str
    dtype: str
    sizes: str
    folds: int
    finished: str
    distinct: int | None = None  # samples that are no copies of others; null where that is not known
    evaluation: Json | None = field(default=None, hash=False)
    geometry: Json = field(default_factory=dict, hash=False)
    loss: Json | None = field(default=None, hash=False)  # predicted, nats per token, and its sums
    totals: Totals | None = field(default=None, hash=False)  # of this very table; None where that is not known

    @property
    def repeats(self) -> bool:
        """True if some of the samples are copies of others; `sizes` has their number in all."""
        return self.distinct is not None and self.distinct < int(self.sizes.split(" ")[0])

    @cached_property
    def calibration(self) -> tuple[str, ...]:
        """The properties that have to agree before two cells may be compared."""
        return (self.identity, self.tokens, self.dtype, self.sizes)

    @property
    def rank(self) -> tuple[bool, bool, str]:
        """A sort key for runs of one cell, of which the highest is taken: one whose cost is known, then the latest."""
        return (self.evaluation is not None, self.loss is not None, self.finished)

    @cached_property
    def setting(self) -> str:
        """Method and alpha: `percentile 0.9995`, `minmax`."""
        return self.method if self.alpha is None else f"{self.method} {self.alpha:.10g}"


def read(paths: Iterable[Path]) -> tuple[list[Cell], list[Problem]]:
    """The finished cells, and the rest with the reason why they are not among them."""
    cells: list[Cell] = []
    problems: list[Problem] = []
    for path in paths:
        one = _read(path)
        if isinstance(one, Cell):
            cells.append(one)
        else:
            problems.append(one)
    return cells, problems


def _read(path: Path) -> Cell | Problem:
    try:
        record = runs.load(path)
        if record.results:
            cell = _cell(path, record, record.results)
    except FileNotFoundError:
        kind = "damaged" if (path / SCALES).exists() else "unfinished"
        return Problem(path, kind, f"{runs.FILE} is missing")
    except RecordError as error:
        return Problem(path, "damaged", str(error))
    except OSError as error:
        return Problem(path, "damaged", f"{runs.FILE} cannot be read: {error}")
    if record.failure:
        return Problem(path, "failed", str(record.failure))
    if record.status is not RunStatus.FINISHED:
        return Problem(path, "unfinished", f"{record.status} since {record.started}")
    try:
        size = os.stat(f"{path}/{SCALES}").st_size
    except OSError:
        return Problem(path, "damaged", f"{SCALES} is missing")
    return replace(cell, totals=None) if cell.totals and cell.totals.size != size else cell


def _cell(path: Path, record: RunRecord, results: Results) -> Cell:
    config, model, tokens = record.config, results.model, results.tokens
    with runs.complete():
        method, asked = config["method"], config["alpha"]
        return Cell(
            path=path,
            name=record.name,
            sweep=record.sweep or path.parent.name,
            model=model.name,
            method=method,
            alpha=asked if method not in METHODS or METHODS[method].uses_alpha else None,
            asked_alpha=asked,
            format=config["format"],
            granularity=config["granularity"],
            data=tokens.data,
            key=results.calibration.key,
            tokens=tokens.sha256,
            identity=model.identity,
            weights=model.weights,
            dtype=config["dtype"],
            sizes=f"{tokens.samples} x {tokens.seqlen}",
            folds=config["calibration"]["folds"],
            finished=record.finished or record.started,
            distinct=tokens.distinct,
            evaluation=results.evaluation,
            geometry=model.facts,
            loss=results.loss,
            totals=results.totals,
        )
