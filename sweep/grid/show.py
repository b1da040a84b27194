"""A plan on a terminal, before anything of it starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

from sweep.calibration.until import percent
from sweep.config.hydra_errors import counted
from sweep.config.knobs import Calibration
from sweep.core.console import Console
from sweep.grid.plan import Cell, Plan

FEW = 24  # cells that are listed one by one without being asked for


def show(plan: Plan, console: Console, every: bool = False, gpus: str | None = None) -> None:
    """The plan on a terminal: what is dropped, a line per calibration, and the cells (`every` one, or if few).

    gpus: what there is to say of them."""
    groups: dict[str, list[Cell]] = {}
    for cell in plan.cells:
        groups.setdefault(str(cell.key), []).append(cell)
    passes = _second_passes(plan.cells)
    more = f", {counted(len(passes), 'second pass', 'second passes')}" if passes else ""
    sizes = f"{counted(len(plan.cells), 'cell')}, {counted(len(groups), 'calibration')}{more}"
    console.print(f"plan: {sizes}", highlight=False)
    for line in plan.dropped:
        console.print(f"  {line}", style="yellow", highlight=False)
    if plan.done:
        console.print(
            f"  going on with an interrupted sweep: {len(plan.done)} of {counted(len(plan.cells), 'cell')} finished "
            "(hydra.sweeper.resume=false starts anew)",
            style="yellow",
            highlight=False,
        )
    shown = Table("calibration", "on", "cells", "state")
    leaders = plan.leaders()
    for name, cells in groups.items():
        leader = leaders.get(cells[0].key.hash)
        state = "in the store"
        if leader and leader.config.calibration.shards > 1:
            state = f"to compute in {leader.config.calibration.shards} shards, merged by cell {leader.number}"
        elif leader:
            state = f"to compute in cell {leader.number}{_until(leader.config.calibration, len(cells))}"
        elif all(cell.number in plan.done for cell in cells):
            state = "finished"
        step = plan.continued.get(leader.key.hash) if leader else None
        if step and step.why_not:
            state += f"; {step.samples} samples are there, but are of no use: {step.why_not}"
        elif leader and step:
            source = leaders.get(step.key.hash)
            there = f"come from cell {source.number}" if source else "are there"
            state += f"; {step.samples} of {leader.config.calibration.samples} samples {there}"
        again = [cell.number for cell in cells if cell.number in passes.values() and cell.number not in plan.done]
        if again:
            state += f"; groups take a second pass in cell {_ranges(again)}, unless it is stored"
        on = f"{cells[0].config.device} {cells[0].config.dtype}"  # both are of the calibration's identity
        shown.add_row(name, on, _ranges([cell.number for cell in cells]), state)
    console.print(shown)
    if gpus:
        console.print(gpus, highlight=False, markup=False)
    if every or len(plan.cells) <= FEW:
        for cell in plan.cells:
            done = "  finished" if cell.number in plan.done else ""
            console.print(f"{cell.number:>4}  {cell.config.label}{done}", highlight=False, markup=False, soft_wrap=True)


def _until(calibration: Calibration, cells: int) -> str:
    """When a calibration stops that is not told how many samples to take."""
    if calibration.tolerance is None:
        return ""
    decides = f"; the most demanding of {cells} cells decides" if cells > 1 else ""
    return (
        f", until {percent(calibration.tolerance_share)} of the scales are known to {percent(calibration.tolerance)}, "
        f"with {calibration.samples} samples at most{decides}"
    )


def _second_passes(cells: Iterable[Cell]) -> dict[tuple[object, ...], int]:
    """The first cell of each pass that observes groups. Which groups those are, and whether the store has them, is
    known only when the first pass is."""
    passes: dict[tuple[object, ...], int] = {}
    for cell in cells:
        if cell.config.second_pass:
            passes.setdefault((cell.key.hash, cell.config.store, cell.config.grouping), cell.number)
    return passes


def _ranges(numbers: Sequence[int]) -> str:
    """0 1 2 5 → 0–2, 5"""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in spans)
