"""A grid under way: its directory, which of its cells may start, and what became of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from sweep import __version__
from sweep.calibration import spec
from sweep.core.errors import UsageError
from sweep.core.fresh import fresh
from sweep.core.store_key import differences
from sweep.grid import leftovers
from sweep.grid.plan import Cell, Plan
from sweep.runs import plan_record
from sweep.runs import record as runs
from sweep.runs.place import INSIST, held, take
from sweep.runs.record import RunRecord
from sweep.runs.results import Results
from sweep.runs.status import Failure, RunStatus


@dataclass
class Grid:
    """directory: of the sweep, each cell has its number's below it. errors: by the number of the failed cell."""

    directory: Path
    plan: Plan
    errors: dict[int, Failure] = field(default_factory=dict)
    followers: dict[int, list[int]] = field(default_factory=dict)  # of a failed leader

    def ready(self, wave: Sequence[Cell]) -> list[Cell]:
        """The cells of a wave whose calibration did not fail. The others fail with their leader's error."""
        leaders = self.plan.leaders()
        ready = []
        for cell in wave:
            leader = leaders.get(cell.key.hash)
            if leader is None or leader.number not in self.errors or spec.stored(cell.config, cell.key):
                ready.append(cell)
                continue
            why = self.errors[leader.number]
            failure = Failure(f"its calibration failed in cell {leader.number}: {why}", why.mendable)
            place = self.directory / cell.place
            runs.fail(place, runs.start(place, runs.describe(cell.config, self.directory.name)), failure)
            self.followers.setdefault(leader.number, []).append(cell.number)
        return ready

    def settle(self, cells: Sequence[Cell], exceptions: Sequence[Exception | None]) -> None:
        """Judge cells that were launched by what lies in their directories."""
        for cell, exception in zip(cells, exceptions, strict=True):
            place = self.directory / cell.place
            if runs.finished(place, cell.config, cell.key.hash):
                continue
            record = runs.read(place)
            self.errors[cell.number] = failure = _why(record, exception, cell, place)
            if record and record.status is RunStatus.RUNNING:  # and nobody else will ever change that
                runs.fail(place, record, failure)

    def failures(self) -> list[str]:
        """A line for each cell that failed, its followers summed up."""
        label = {cell.number: cell.config.label for cell in self.plan.cells}
        lines = []
        for number, failure in sorted(self.errors.items()):
            with_it = self.followers.get(number, [])
            need = "cell that needs" if len(with_it) == 1 else "cells that need"
            more = f" ({len(with_it)} {need} its calibration failed with it)" if with_it else ""
            lines.append(f"cell {number} ({label[number]}): {failure}{more}")
        return lines

    @property
    def exit_code(self) -> int:
        """2 if all that failed were mistakes a user can mend, 1 if something crashed."""
        return 2 if all(failure.mendable for failure in self.errors.values()) else 1


def _why(record: RunRecord | None, exception: Exception | None, cell: Cell, place: Path) -> Failure:
    """Why a cell that was launched has not the result that was planned."""
    if record and record.failure:
        return record.failure
    if exception:
        return Failure.in_one_line(exception)
    if record and record.results:
        return _elsewhere(record, record.results, cell)
    return Failure(f"ended without a result, killed perhaps; see {place}")


def _elsewhere(record: RunRecord, results: Results, cell: Cell) -> Failure:
    """A finished run is not the one that was planned: its job ran where packages, files or variables are others."""
    differ = differences(results.calibration.preimage, cell.key.preimage)
    if (version := record.versions.get("sweep")) != __version__:
        differ.append(f"sweep: {version} there, {__version__} here")
    return Failure(
        "its job finished something else than this process planned "
        f"({'; '.join(differ) or 'another configuration'}); start the sweep in the environment of its jobs",
        mendable=True,
    )


@contextmanager
def claimed(wanted: Path, chosen: bool, plan: Plan, resume: bool, overwrite: bool = False) -> Iterator[Grid]:
    """The directory of a grid, kept by this process as long as the context lasts.

    An unfinished sweep of just these cells beside `wanted` is gone on with, unless a process is still at it.
    Otherwise `wanted` is created, with a number behind it if there is one of that name.
    chosen: `wanted` is the user's explicit choice: it is that directory or a UsageError. What it holds of anything
    else is replaced only with `overwrite`."""
    if resume and not chosen:
        for directory in sorted((p.parent for p in wanted.parent.glob(f"*/{plan_record.FILE}")), reverse=True):
            earlier = plan_record.read(directory)
            if earlier is None or not plan.same(earlier):
                continue
            lock = FileLock(directory / ".lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            with lock:
                lock.release()  # `with` took it a second time; it is held once now
                resumed = plan.resumed(earlier, directory)
                if resumed.waiting:
                    yield Grid(directory, resumed)
                    return
    directory = wanted if chosen else fresh(wanted)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with held(directory, "hydra.sweep.dir"):  # what it holds is looked at once nobody else can change it
            settled = _settled(directory, plan, resume, overwrite)
            if settled is plan:
                plan.recorded.write(directory)
            yield Grid(directory, settled)
    except OSError as error:
        raise UsageError(f"sweep directory {directory} cannot be written: {error.strerror or error}") from error


def _settled(directory: Path, plan: Plan, resume: bool, overwrite: bool) -> Plan:
    """The plan as it is to be carried out here; with `overwrite` cells of the sweep that it replaces are removed.
    Raises UsageError where that would cost what lies here."""
    earlier = plan_record.read(directory)
    if earlier and resume and plan.same(earlier):
        return plan.resumed(earlier, directory)
    if overwrite:
        leftovers.remove(directory, plan, earlier)
        return plan
    if earlier:
        raise UsageError(f"hydra.sweep.dir={directory} holds another sweep: {INSIST}")
    for name in (plan_record.FILE, "multirun.yaml"):
        if (directory / name).exists():
            raise UsageError(f"hydra.sweep.dir={directory} holds a {name} that is no sweep's of this program: {INSIST}")
    for cell in plan.cells:
        place = directory / cell.place
        if place.exists():
            take(place, partial(runs.repeated, place, cell.config), overwrite)
    return plan
