"""A grid before it starts: its cells, those that are left out as duplicates, and the order in which they run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.config.config import Config
from sweep.core.errors import UsageError
from sweep.core.store_key import Key
from sweep.runs import record as runs
from sweep.runs import until
from sweep.runs.plan_record import PlannedCell, PlanRecord
from sweep.runs.results import Json

if TYPE_CHECKING:
    from sweep.calibration.growth import Step


@dataclass(frozen=True)
class Cell:
    """One cell of a grid. number: of its job. overrides: as on the command line. key: of its calibration. stored: the
    calibration is in the store. place: its directory, below the sweep's."""

    number: int
    overrides: tuple[str, ...]
    config: Config
    key: Key
    stored: bool
    place: str

    @cached_property
    def identity(self) -> str:
        """Equal for cells that cannot differ: the same configuration, over the same calibration."""
        return f"{self.config.identity}-{self.key.hash}"

    @property
    def recorded(self) -> PlannedCell:
        """The cell's entry in plan.json."""
        return PlannedCell(self.number, self.place, self.config.label, self.overrides, str(self.key), self.identity)


@dataclass(frozen=True)
class Plan:
    """The cells of a grid, in the order of the command line.

    dropped: a line for each reason why cells were left out. done: numbers of the cells that an earlier, interrupted
    run of the same sweep has finished. continued: by the hash of a calibration that has to be computed, the one of
    fewer samples that it goes on from, which is stored or is computed before."""

    cells: tuple[Cell, ...]
    dropped: tuple[str, ...] = ()
    done: frozenset[int] = frozenset()
    continued: Mapping[str, Step] = field(default_factory=dict)

    @property
    def waiting(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.number not in self.done]

    def leaders(self) -> dict[str, Cell]:
        """By the hash of each calibration that is not stored, the cell that computes it: the first that needs it."""
        leaders: dict[str, Cell] = {}
        for cell in self.waiting:
            if not cell.stored:
                leaders.setdefault(cell.key.hash, cell)
        return leaders

    def shards(self, wave: Iterable[Cell] | None = None) -> list[tuple[Cell, int]]:
        """Jobs that compute a shard of a calibration and no cell, as (leader, shard). They run before the cells of
        `wave`; None means all cells."""
        numbers = {cell.number for cell in (self.waiting if wave is None else wave)}
        return [
            (leader, shard)
            for leader in self.leaders().values()
            if leader.number in numbers
            for shard in range(leader.config.calibration.shards)
            if leader.config.calibration.shards > 1
        ]

    def waves(self) -> list[list[Cell]]:
        """Groups of cells that run one after the other: first cells with a stored calibration, and leaders; then the
        leaders' followers, and leaders that go on from a calibration of the first wave; and so on."""
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

    @property
    def recorded(self) -> PlanRecord:
        """The plan as plan.json has it."""
        return PlanRecord(tuple(cell.recorded for cell in self.cells), self._demands())

    def _demands(self) -> dict[str, list[Json]]:
        demands: dict[str, list[Json]] = {}
        for cell in self.cells:
            if cell.config.calibration.tolerance is not None:
                asked = demands.setdefault(cell.key.hash, [])
                asked += [one] if (one := until.asked(cell.config)) not in asked else []
        return demands

    def same(self, earlier: PlanRecord) -> bool:
        """True if an earlier plan has just these cells, in any order."""
        return {cell.identity for cell in self.cells} == earlier.identities

    def resumed(self, earlier: PlanRecord, directory: Path) -> Plan:
        """This plan with the numbers and directories of an earlier one of the same cells, and which of those are
        finished in the sweep's directory."""
        known = {cell.identity: cell for cell in earlier.cells}
        cells = [
            replace(cell, number=known[cell.identity].number, place=known[cell.identity].directory)
            for cell in self.cells
        ]
        done = (c.number for c in cells if runs.finished(directory / c.place, c.config, c.key.hash))
        return replace(self, cells=tuple(sorted(cells, key=lambda c: c.number)), done=frozenset(done))


def plan(
    jobs: Iterable[tuple[Sequence[str], Config]],
    key: Callable[[Config], Key],
    stored: Callable[[Config, Key], bool],
    place: Callable[[int, Sequence[str]], str] = lambda number, overrides: str(number),
    continued: Callable[[Iterable[tuple[Config, Key]]], Mapping[str, Step]] = lambda asked: {},
) -> Plan:
    """The plan of a grid: its cells numbered, without those that cannot differ from an earlier one.

    jobs: overrides and configuration of each. place: from a job's number and overrides to its directory. continued:
    see `Plan`. Raises UsageError where two cells have the same directory."""
    cells: dict[str, Cell] = {}
    twins: dict[str, list[Config]] = {}  # by the identity of the cell that stands for them
    for overrides, config in jobs:
        calibration = key(config)
        cell = Cell(len(cells), tuple(overrides), config, calibration, stored(config, calibration), "")
        if cell.identity in cells:
            twins.setdefault(cell.identity, []).append(config)
        else:
            cells[cell.identity] = replace(cell, place=place(cell.number, overrides))
    _each_in_a_directory_of_its_own(cells.values())
    dropped, kept = Counter[str](), Counter[str]()
    for identity, others in twins.items():
        why = _why(cells[identity].config, others)
        dropped[why] += len(others)
        kept[why] += 1
    lines = (f"{why}: {dropped[why] + kept[why]} cells are {kept[why]}" for why in kept)
    planned = Plan(tuple(cells.values()), tuple(lines))
    asked = [(leader.config, leader.key) for leader in planned.leaders().values()]
    return replace(planned, continued=continued(asked))


def _each_in_a_directory_of_its_own(cells: Iterable[Cell]) -> None:
    places: dict[str, Cell] = {}
    for cell in cells:
        if (other := places.setdefault(os.path.normpath(cell.place), cell)) is not cell:
            raise UsageError(
                f"hydra.sweep.subdir puts cells {other.number} and {cell.number} both into {cell.place}: "
                "name what they differ in, or ${hydra.job.num}"
            )


def _why(cell: Config, others: Iterable[Config]) -> str:
    """Why cells are left out: the knobs that differ, which their method ignores."""
    kept = _flat(cell.to_dict())
    knobs = {name for other in others for name, value in _flat(other.to_dict()).items() if kept[name] != value}
    return f"{cell.method} ignores {', '.join(sorted(knobs))}" if knobs else "asked for more than once"


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """{"a": {"b": 1}} → {"a.b": 1}"""
    flat: dict[str, object] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
