"""The list of what lies under runs/: sweeps with their cells, age and size. Reads run.json files and nothing else of a
cell."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from sweep.core.errors import UsageError
from sweep.runs import discovery, plan_record
from sweep.runs import record as runs
from sweep.runs.status import RunStatus

DAMAGED, WAITING = "damaged", "waiting"  # beside the states of a run.json; a cell that waits is planned only
STATES = (RunStatus.FINISHED, RunStatus.FAILED, RunStatus.RUNNING, WAITING, DAMAGED)  # in the order of the listing
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
    """The sweeps under the directories, the newest last. Raises UsageError for a directory that is none."""
    for root in roots:
        if not root.is_dir():
            raise UsageError(f"{root}: no such directory; name {discovery.RUNS}/ or a directory of sweeps")
    places = {place: cells for root in roots for place, cells in discovery.sweeps(root)}
    return sorted((_read(place, cells) for place, cells in places.items()), key=lambda s: s.latest)


def _read(place: Path, cells: list[Path]) -> Sweep:
    sweep = Sweep(place)
    models: dict[str, None] = {}
    for cell in cells:
        try:
            record = runs.load(cell)
            with runs.complete():
                model = record.config["model"]["name"]
                when = datetime.fromisoformat(record.finished or record.started).timestamp()
        except FileNotFoundError:
            wrong: str | None = f"{runs.FILE} is missing"
        except (OSError, ValueError) as error:
            wrong = str(error)
        else:
            models[model] = None
            sweep.latest = max(sweep.latest, when)
            wrong = _torn(cell) if record.results else None
        if wrong:
            sweep.damaged[cell] = wrong
        sweep.cells[DAMAGED if wrong else record.status] += 1
    sweep.models = list(models)
    planned = plan_record.read(place)
    if planned and len(planned.cells) > len(cells):
        sweep.cells[WAITING] = len(planned.cells) - len(cells)
    sweep.latest = sweep.latest or place.stat().st_mtime
    sweep.size = _size(str(place))
    return sweep


def _torn(cell: Path) -> str | None:
    """The fault of a finished cell's table that its first and last bytes tell; None if they tell none."""
    try:
        with open(cell / discovery.SCALES, "rb") as file:
            first = file.read(4)
            file.seek(-4, os.SEEK_END)
            whole = first == MAGIC == file.read(4)
    except FileNotFoundError:
        return f"{discovery.SCALES} is missing"
    except OSError:
        whole = False
    return None if whole else f"{discovery.SCALES} is torn"


def _size(path: str) -> int:
    total = 0
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += _size(entry.path)
            else:
                total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total
