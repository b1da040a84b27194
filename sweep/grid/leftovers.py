"""Cells of an earlier sweep in a directory that a new one takes over: the comparison would show them beside the new."""

from __future__ import annotations

import os
from pathlib import Path

from sweep.grid.plan import Plan
from sweep.runs import discovery
from sweep.runs import record as runs
from sweep.runs.place import held, withdraw
from sweep.runs.plan_record import PlanRecord

LOG = "sweep.log"  # of Hydra, by the name of the job in conf/hydra/sweep.yaml


def remove(directory: Path, plan: Plan, earlier: PlanRecord | None) -> None:
    """Remove the files of those cells that the sweep in this directory wrote and that `plan` does not write again.

    A run that says that it is of another sweep, or of none, stays, and so does every file that no run writes. Raises
    UsageError where a process is running in such a cell; no cell is removed then."""
    names = {os.path.normpath(cell.directory): cell.name for cell in earlier.cells} if earlier else {}
    planned = {os.path.normpath(cell.place) for cell in plan.cells}
    cells = [cell for _, members in discovery.sweeps(directory) for cell in members if cell != directory]
    left = [
        cell
        for cell in cells
        if (place := os.path.relpath(cell, directory)) not in planned and _wrote(directory, cell, names.get(place))
    ]
    for cell in left:
        with held(cell, "hydra.sweep.dir"):
            pass
    for cell in left:
        withdraw(cell, LOG, frozenset())


def _wrote(directory: Path, cell: Path, planned: str | None) -> bool:
    """True if the sweep of this directory wrote the cell. planned: the cell's name in its plan, None if it has none."""
    record = runs.read(cell)
    if record is None:
        return planned is not None and not (cell / runs.FILE).exists()  # killed before it wrote one
    return record.name == planned or record.sweep == directory.name
