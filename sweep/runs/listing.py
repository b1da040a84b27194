"""What lies under runs/: sweeps with their cells, age and size. Reads run.json files and nothing else of a cell."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sweep.core.errors import UsageError

SKIPPED = {".hydra", "wandb", "calibrations", ".shards", ".submitit", "__pycache__"}
PLANS = {"plan.json", "multirun.yaml"}  # what a sweep's directory holds, ours or another sweeper's
STATES = ("finished", "failed", "running")  # of a run.json; `damaged` and `waiting` (planned only) come on top
MAGIC = b"PAR1"  # first and last bytes of every whole Parquet file


@dataclass
class Sweep:
    """A directory of cells, or one cell by itself. damaged: cell → what is wrong with it. latest: seconds since
    the epoch of the last sign of life. size: bytes allocated on disk, everything below the directory."""

    path: Path
    models: list[str] = field(default_factory=list)
    cells: Counter[str] = field(default_factory=Counter)
    damaged: dict[Path, str] = field(default_factory=dict)
    latest: float = 0.0
    size: int = 0


def sweeps(roots: list[Path]) -> list[Sweep]:
    """Those under the directories, the newest last. Raises UsageError for a directory that is none."""
    for root in roots:
        if not root.is_dir():
            raise UsageError(f"{root}: no such directory; name runs/ or a directory of sweeps")
    found = {place: cells for root in roots for place, cells in _find(root)}
    return sorted((_read(place, cells) for place, cells in found.items()), key=lambda s: s.latest)


def _find(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """(directory, its cells) of every sweep below, and of every cell that belongs to none."""
    with os.scandir(root) as entries:
        names = {entry.name: entry.is_dir() for entry in entries}
    below = sorted(Path(root, name) for name, folder in names.items() if folder and name not in SKIPPED)
    if PLANS & names.keys():
        below = [path for path in below if path.name != "shards"]  # as sweeps of earlier versions kept what is no cell
        yield root, [cell for path in below for cell in _cells(path)]
    elif _is_cell(root):
        yield root, [root]
    else:
        for path in below:
            yield from _find(path)


def _cells(path: Path) -> Iterator[Path]:
    """The cells of a sweep in one of its directories: itself, or those below where hydra.sweep.subdir has slashes."""
    if path.name.isdigit() or _is_cell(path):
        yield path
        return
    with os.scandir(path) as entries:
        below = sorted(Path(entry.path) for entry in entries if entry.is_dir() and entry.name not in SKIPPED)
    for one in below:
        yield from _cells(one)


def _is_cell(path: Path) -> bool:
    return any((path / name).exists() for name in ("run.json", "scales.parquet", ".hydra"))


def _read(place: Path, cells: list[Path]) -> Sweep:
    sweep = Sweep(place)
    models: dict[str, None] = {}
    for cell in cells:
        try:
            record = json.loads((cell / "run.json").read_bytes())
            state, model = record["status"], record["config"]["model"]["name"]
            when = datetime.fromisoformat(record["finished"] or record["started"]).timestamp()
            wrong = _wrong(cell, record)
        except FileNotFoundError:
            wrong, when = "run.json is missing", 0.0
        except (OSError, ValueError) as error:
            wrong, when = f"run.json cannot be read: {error}", 0.0
        except (KeyError, TypeError, AttributeError) as error:
            wrong, when = f"run.json lacks {error}", 0.0
        else:
            models[model] = None
        if wrong:
            sweep.damaged[cell] = wrong
        sweep.cells["damaged" if wrong else state] += 1
        sweep.latest = max(sweep.latest, when)
    sweep.models = list(models)
    if (planned := _planned(place)) > len(cells):
        sweep.cells["waiting"] = planned - len(cells)
    sweep.latest = sweep.latest or place.stat().st_mtime
    sweep.size = _size(str(place))
    return sweep


def _wrong(cell: Path, record: dict[str, Any]) -> str | None:
    """What keeps a cell from being what its run.json says."""
    if record["status"] not in STATES:
        return f"status {record['status']!r} is unknown"
    if record["status"] != "finished":
        return None
    try:
        with open(cell / "scales.parquet", "rb") as file:
            first = file.read(4)
            file.seek(-4, os.SEEK_END)
            whole = first == MAGIC == file.read(4)
    except FileNotFoundError:
        return "scales.parquet is missing"
    except OSError:
        whole = False
    return None if whole else "scales.parquet is torn"


def _planned(place: Path) -> int:
    try:
        return len(json.loads((place / "plan.json").read_bytes())["cells"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _size(path: str) -> int:
    total = 0
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += _size(entry.path)
            else:
                total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total
