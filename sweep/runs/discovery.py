"""Directories of cells and of the sweeps that they belong to: the one place that finds them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sweep.core.cli import spelled
from sweep.core.errors import UsageError
from sweep.runs import plan_record
from sweep.runs import record as runs

RUNS = Path("runs")
SCALES = "scales.parquet"
PLANS = {plan_record.FILE, "multirun.yaml"}  # what a sweep's directory holds, ours or another sweeper's
SKIPPED = {".hydra", "wandb", "calibrations", ".shards", ".submitit", "__pycache__"}


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
