"""From the files of finished cells to their W&B runs: what `tracker.results` does at the end of a cell, later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sweep.config.knobs import Wandb
from sweep.core.errors import UsageError
from sweep.runs import discovery
from sweep.runs import record as runs
from sweep.runs.record import RunRecord
from sweep.runs.tracking import delivery, view, wandb_connection
from sweep.runs.tracking.delivery import OFFLINE, Destination
from sweep.runs.tracking.wandb import open_run
from sweep.runs.tracking.wandb_connection import Identity, Unreachable


@dataclass(frozen=True)
class Options:
    """The destination; None: as the cell's run.json says."""

    mode: str = "auto"
    project: str | None = None
    entity: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Outcome:
    """state: `sent`; `there`, where a complete copy had gone before; `skipped`, an unfinished cell; `failed`.
    seen: how to see the run, or why there is none."""

    directory: Path
    state: str
    seen: str


def replay(roots: list[Path], options: Options) -> Iterator[Outcome]:
    """Every cell below `roots`, one outcome each. A cell keeps its id, so a run is completed and never doubled.

    Raises UsageError where there is no cell, or where the server cannot be reached: nothing is lost by that,
    and a copy of the cell in W&B's offline format would add nothing to its files."""
    directories = find(roots)
    try:
        server = destination(options.mode, directories[0])
        for directory in directories:
            yield _one(directory, server, options)
    except Unreachable as error:
        raise UsageError(f"W&B: {error}") from error


def find(roots: list[Path]) -> list[Path]:
    """Directories of cells, finished or not. Raises UsageError where a root is none or holds none."""
    cells: set[Path] = set()
    for root in roots:
        if not root.is_dir():
            raise UsageError(f"{root} is no directory; give a run, a sweep, or a folder of them, for example runs")
        below = {cell for _, members in discovery.sweeps(root) for cell in members}
        if not below:
            raise UsageError(f"{root} holds no cell: no {runs.FILE} in it or below")
        cells |= below
    return sorted(cells)


def destination(mode: str, directory: Path) -> str:
    """The server, or OFFLINE. Raises Unreachable where `online` was asked for without a key."""
    if (mode := wandb_connection.mode(mode)) in ("offline", "disabled"):  # disabled was W&B's variable, not the option
        return OFFLINE
    return wandb_connection.server(mode, directory) or OFFLINE


def _one(directory: Path, server: str, options: Options) -> Outcome:
    try:
        record = runs.load(directory)
        if not record.results:
            return Outcome(directory, "skipped", record.status)
        return _send(directory, record, server, options)
    except FileNotFoundError as error:
        if Path(error.filename or "").name == runs.FILE:
            return Outcome(directory, "skipped", f"{runs.FILE} is missing")
        return Outcome(directory, "failed", wandb_connection.first_line(error))
    except (OSError, ValueError, KeyError) as error:
        lacking = "lacks " if isinstance(error, KeyError) else ""
        return Outcome(directory, "failed", lacking + wandb_connection.first_line(error))


def _send(directory: Path, record: RunRecord, server: str, options: Options) -> Outcome:
    saved = record.config.get("wandb") or {}
    wanted = Wandb(
        project=options.project or saved.get("project"),
        entity=options.entity or saved.get("entity"),
        tags=saved.get("tags") or [],
    )
    group = options.group or saved.get("group") or record.sweep or directory.parent.name
    identity = Identity(delivery.identify(runs.content(directory)), record.name, group, "calibrate")
    target = Destination(server, wanted.entity, str(wanted.project), group, identity.id)
    if seen := delivery.delivered(directory, target):
        return Outcome(directory, "there", seen)
    view.read(directory)  # damaged files are to be found before there is a run
    tracker = open_run(server, wanted, directory, identity, record.config)
    try:
        tracker.results(directory)
    finally:
        tracker.finish()
    return Outcome(directory, "sent" if tracker.complete else "failed", str(tracker.hint))
