"""A grid before it starts: which cells there are, which of them are one, and what has to come first."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from sweep.config.config import Config
from sweep.config.hydra_errors import counted
from sweep.core.console import Console
from sweep.core.errors import UsageError
from sweep.core.store_key import Key
from sweep.grid import demands
from sweep.runs import record as runs

if TYPE_CHECKING:
    from sweep.calibration.growth import Step

FEW = 24  # cells that are listed one by one without being asked for


@dataclass(frozen=True)
class Cell:
    """number: its job's. place: its directory, below the sweep's. overrides: as on the command line."""

    number: int
    overrides: tuple[str, ...]
    config: Config
    key: Key
    stored: bool
    place: str

    @cached_property
    def identity(self) -> str:
        """Equal for cells that cannot differ: in what was asked for and in what it is asked of."""
        return f"{self.config.identity}-{self.key.hash}"


@dataclass(frozen=True)
class Plan:
    """cells: to be run, in the order of the command line. dropped: why others are not, a line each.
    done: numbers of cells that an earlier, interrupted run of the same sweep has finished. continued: by the hash of a
    calibration that has to be computed, the one of fewer samples that it goes on from, stored or to be computed too."""

    cells: tuple[Cell, ...]
    dropped: tuple[str, ...] = ()
    done: frozenset[int] = frozenset()
    continued: Mapping[str, Step] = field(default_factory=dict)

    @property
    def waiting(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.number not in self.done]

    def leaders(self) -> dict[str, Cell]:
        """For each calibration that is not stored the cell that computes it: the first one."""
        found: dict[str, Cell] = {}
        for cell in self.waiting:
            if not cell.stored:
                found.setdefault(cell.key.hash, cell)
        return found

    def shards(self, wave: Iterable[Cell] | None = None) -> list[tuple[Cell, int]]:
        """Jobs that only compute a part of a calibration, by leader, of a wave or of all; they go before its cells."""
        numbers = {cell.number for cell in (self.waiting if wave is None else wave)}
        return [
            (leader, shard)
            for leader in self.leaders().values()
            if leader.number in numbers
            for shard in range(leader.config.calibration.shards)
            if leader.config.calibration.shards > 1
        ]

    def waves(self) -> list[list[Cell]]:
        """Leaders, and cells whose calibration is stored already; then the leaders' followers, and leaders that go on
        from what the first have computed; and so on."""
        leaders = self.leaders()

        def depth(key: str) -> int:
            step = self.continued.get(key)
            return depth(step.key.hash) + 1 if step and step.key.hash in leaders else 0

        waves: dict[int, list[Cell]] = {}
        for cell in self.waiting:
            leader = None if cell.stored else leaders[cell.key.hash]
            number = 0 if leader is None else depth(cell.key.hash) + (leader is not cell)
            waves.setdefault(number, []).append(cell)
        return [waves[number] for number in sorted(waves)]

    def to_dict(self) -> dict[str, Any]:
        """What a later run of the same command recognizes the sweep by."""
        return {
            "schema": 1,
            "cells": [
                {
                    "number": cell.number,
                    "directory": cell.place,
                    "name": cell.config.label,
                    "overrides": list(cell.overrides),
                    "calibration": str(cell.key),
                    "identity": cell.identity,
                }
                for cell in self.cells
            ],
            demands.DEMANDS: demands.of((cell.config, cell.key) for cell in self.cells),
        }

    def resumed(self, earlier: dict[str, Any], directory: Path) -> Plan:
        """This plan with the numbers and places that an earlier one gave its cells, and what of them is there."""
        known = {
            cell["identity"]: {"number": cell["number"], "place": cell.get("directory", str(cell["number"]))}
            for cell in earlier["cells"]
        }
        cells = tuple(sorted((replace(c, **known[c.identity]) for c in self.cells), key=lambda c: c.number))
        done = (c.number for c in cells if runs.finished(directory / c.place, c.config, c.key.hash))
        return replace(self, cells=cells, done=frozenset(done))


def same(plan: Plan, earlier: dict[str, Any]) -> bool:
    """Whether an earlier plan has just these cells, in whatever order."""
    return {cell.identity for cell in plan.cells} == {cell["identity"] for cell in earlier["cells"]}


def plan(
    jobs: Iterable[tuple[Sequence[str], Config]],
    key: Callable[[Config], Key],
    stored: Callable[[Config, Key], bool],
    place: Callable[[int, Sequence[str]], str] = lambda number, overrides: str(number),
    continued: Callable[[Iterable[tuple[Config, Key]]], Mapping[str, Step]] = lambda asked: {},
) -> Plan:
    """Number the cells of a grid, without those that cannot differ from an earlier one.

    place: from a job's number and overrides to its directory. continued: see `Plan`. Raises UsageError where
    two cells have the same directory."""
    cells: dict[str, Cell] = {}
    twins: dict[str, list[Config]] = {}  # by the identity of the cell that stands for them
    for overrides, config in jobs:
        found = key(config)
        cell = Cell(len(cells), tuple(overrides), config, found, stored(config, found), "")
        if cell.identity in cells:
            twins.setdefault(cell.identity, []).append(config)
        else:
            cells[cell.identity] = replace(cell, place=place(cell.number, overrides))
    places: dict[str, Cell] = {}
    for cell in cells.values():
        if (other := places.setdefault(os.path.normpath(cell.place), cell)) is not cell:
            raise UsageError(
                f"hydra.sweep.subdir puts cells {other.number} and {cell.number} both into {cell.place}: "
                "name what they differ in, or ${hydra.job.num}"
            )
    dropped, kept = Counter[str](), Counter[str]()
    for identity, others in twins.items():
        why = _why(cells[identity].config, others)
        dropped[why] += len(others)
        kept[why] += 1
    lines = (f"{why}: {dropped[why] + kept[why]} cells are {kept[why]}" for why in kept)
    planned = Plan(tuple(cells.values()), tuple(lines))
    asked = [(leader.config, leader.key) for leader in planned.leaders().values()]
    return replace(planned, continued=continued(asked))


def _why(cell: Config, others: Iterable[Config]) -> str:
    """What differs between cells that are one."""
    known = _flat(cell.to_dict())
    knobs = {name for other in others for name, value in _flat(other.to_dict()).items() if known[name] != value}
    return f"{cell.method} ignores {', '.join(sorted(knobs))}" if knobs else "asked for more than once"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


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
            state = f"to compute in cell {leader.number}" + demands.until(cells[0].config.calibration, len(cells))
        elif all(cell.number in plan.done for cell in cells):
            state = "finished"
        if leader and (step := plan.continued.get(leader.key.hash)):
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
