"""Cells on disk, the one place that finds them: their directories, the sweeps they belong to, what cannot be used."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sweep.core.cli import spelled
from sweep.core.errors import UsageError
from sweep.quantization.methods.registry import METHODS
from sweep.runs import plan_record
from sweep.runs import record as runs
from sweep.runs.record import RecordError, RunRecord, RunStatus
from sweep.runs.results import Results

RUNS = Path("runs")
SCALES = "scales.parquet"
PLANS = {plan_record.FILE, "multirun.yaml"}  # what a sweep's directory holds, ours or another sweeper's
SKIPPED = {".hydra", "wandb", "calibrations", ".shards", ".submitit", "__pycache__"}


@dataclass(frozen=True)
class Problem:
    """A directory that looks like a cell and cannot be compared. kind: `unfinished` or `damaged`."""

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
    evaluation: dict[str, Any] | None = field(default=None, hash=False)
    geometry: dict[str, Any] = field(default_factory=dict, hash=False)
    loss: dict[str, Any] | None = field(default=None, hash=False)  # predicted, nats per token, and its sums

    @property
    def repeats(self) -> bool:
        """Whether some of its samples are copies of others; `sizes` says how many there are in all."""
        return self.distinct is not None and self.distinct < int(self.sizes.split(" ")[0])

    @cached_property
    def calibration(self) -> tuple[str, ...]:
        """What has to agree before two cells may be compared."""
        return (self.identity, self.tokens, self.dtype, self.sizes)

    @property
    def rank(self) -> tuple[bool, bool, str]:
        """Of runs of one cell the highest counts: one whose cost is known, then the latest."""
        return (self.evaluation is not None, self.loss is not None, self.finished)

    @cached_property
    def setting(self) -> str:
        """How the clip is chosen: `percentile 0.9995`, `minmax`."""
        return self.method if self.alpha is None else f"{self.method} {self.alpha:.10g}"


def find(patterns: Sequence[str]) -> list[Path]:
    """Directories of cells under directories or globs, in order; under the latest of runs/ if none is given.

    Raises UsageError for a pattern that matches nothing, and where nothing is a cell.
    """
    roots = [Path(p) for p in patterns] or [_latest()]
    cells: dict[Path, None] = {}
    for root in roots:
        matches = [root] if root.is_dir() else [Path(m) for m in sorted(glob.glob(str(root), recursive=True))]
        if not matches:
            raise UsageError(f"{root}: no such directory, and as a pattern it matches nothing")
        for match in matches:
            if match.is_dir():
                cells.update((cell, None) for _, members in sweeps(match) for cell in members)
            elif match.name in (runs.FILE, SCALES):  # a pattern may name the files themselves
                cells[match.parent] = None
    if not cells:
        raise UsageError(f"{' '.join(map(str, roots))}: no cells here; a cell is a directory with a {runs.FILE}")
    return list(cells)


def sweeps(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Every sweep at or below a directory with its cells, and every cell that belongs to none as a sweep of its own.

    A sweep is a directory with a plan. A cell is one with run.json or scales.parquet; or with Hydra's .hydra/ and
    nothing below, which died before it could write one; or of a sweep, named by its number, and empty."""
    if _is_cell(str(root)):
        yield root, [root]
        return
    files, folders = _listed(str(root))
    if PLANS & files:
        yield root, [Path(cell) for cell in _cells(str(root), True)]
    elif _died(folders):
        yield root, [root]
    else:
        for name in folders:
            if name not in SKIPPED:
                yield from sweeps(root / name)


def _latest() -> Path:
    folders = [p for p in RUNS.iterdir() if p.is_dir() and p.name not in SKIPPED] if RUNS.is_dir() else []
    for path in sorted(folders, key=lambda p: p.stat().st_mtime, reverse=True):
        if any(cells for _, cells in sweeps(path)):
            return path
    raise UsageError(f"{RUNS}/ holds no cells yet: run `{spelled('run')}`, or name a directory")


def _cells(root: str, planned: bool = False) -> Iterator[str]:
    """The cells below a directory of a sweep. planned: it is the sweep's own, whose cells have numbers for names."""
    if _is_cell(root):
        yield root
        return
    _, folders = _listed(root)
    below = [name for name in folders if name not in SKIPPED]
    if planned and "shards" in below:
        below.remove("shards")  # as sweeps of earlier versions kept what is no cell
    for name in below:
        path = f"{root}/{name}"
        cells = _cells(path)
        first = next(cells, None)
        if first is not None:
            yield first
            yield from cells
        elif planned and name.isdigit():
            yield path
    if not planned and _died(folders):
        yield root


def _is_cell(path: str) -> bool:
    # most directories of a huge sweep are cells, and asking for one file is quicker than listing them all
    return os.path.exists(f"{path}/{runs.FILE}") or os.path.exists(f"{path}/{SCALES}")


def _died(folders: list[str]) -> bool:
    return ".hydra" in folders and SKIPPED.issuperset(folders)


def _listed(path: str) -> tuple[set[str], list[str]]:
    """Names of the files of a directory, and of its folders in order."""
    with os.scandir(path) as entries:
        kinds = {entry.name: entry.is_dir() for entry in entries}
    return {name for name, folder in kinds.items() if not folder}, sorted(n for n, folder in kinds.items() if folder)


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
        return Problem(path, "unfinished", f"{RunStatus.FAILED}: {record.failure.text}")
    if record.status is not RunStatus.FINISHED:
        return Problem(path, "unfinished", f"{record.status} since {record.started}")
    if not os.path.exists(f"{path}/{SCALES}"):
        return Problem(path, "damaged", f"{SCALES} is missing")
    return cell


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
        )
