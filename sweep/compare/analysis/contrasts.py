"""Questions and the cells that answer them: cells that differ in one knob and agree in all others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.compare.query.labels import observed
from sweep.core.errors import UsageError
from sweep.runs.compared import Cell

KNOBS = ("alpha", "method", "format", "granularity", "data")
FREE: dict[str, tuple[str, ...]] = {"method": ("method", "alpha")}  # of a knob not here: itself
REFERENCE = {"alpha": 0.9995, "method": "minmax", "format": "int8", "granularity": "tensor"}


@dataclass(frozen=True)
class Contrast:
    """A question: does `knob` matter in `context`? Every other cell is held against the baseline.

    cells: numbers of the cells, one per value of the knob, in the order of the values.
    baseline: position of the baseline among them.
    """

    knob: str
    context: str
    values: tuple[str, ...]
    cells: tuple[int, ...]
    baseline: int

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(baseline, other) for every other cell."""
        base = self.cells[self.baseline]
        return [(base, cell) for cell in self.cells if cell != base]

    def value(self, cell: int) -> str:
        return self.values[self.cells.index(cell)]


def contrasts(cells: Sequence[Cell], baseline: str | None = None) -> list[Contrast]:
    """Every question these cells can answer, most asked-for knob first.

    baseline: `alpha=0.9995`, `method=minmax,format=int8`, or part of a cell's name or path; by default
    alpha 0.9995 (the nearest there is), minmax, int8, one scale per tensor. Of cells that repeat one another
    one with a known cost counts, else the latest; whether they agree is what `repeats` says.

    Raises UsageError for a baseline that no cell is.
    """
    chosen = _baseline(cells, baseline)
    told = observed(cells)
    questions: list[Contrast] = []
    columns = _columns(cells)
    for knob in KNOBS:
        fixed = zip(*(values for name, values in columns.items() if name not in FREE.get(knob, (knob,))), strict=True)
        groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        for number, agreed in enumerate(fixed):
            groups[agreed].append(number)
        for group in groups.values():
            newest = _newest(cells, group, knob) if len(group) > 1 else {}
            if len(newest) < 2 or (knob == "method" and len({cells[n].method for n in newest.values()}) < 2):
                continue
            values = sorted(newest)
            numbers = tuple(newest[value] for value in values)
            questions.append(
                Contrast(
                    knob,
                    _context(cells[numbers[0]], knob, *told[numbers[0]]),
                    tuple(_text(knob, value, cells[newest[value]]) for value in values),
                    numbers,
                    _position(knob, values, [n in chosen for n in numbers]),
                )
            )
    return questions


def repeats(cells: Sequence[Cell]) -> list[list[int]]:
    """Numbers of the cells that are one another's repetition: the same setting of the same calibration."""
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for number, agreed in enumerate(zip(*_columns(cells).values(), strict=True)):
        groups[agreed].append(number)
    return [group for group in groups.values() if len(group) > 1]


def _newest(cells: Sequence[Cell], group: Sequence[int], knob: str) -> dict[Any, int]:
    """Value of the knob → the cell that has it; of several one whose cost is known, else the latest."""
    newest: dict[Any, int] = {}
    for number in group:
        cell = cells[number]
        value = _value(cell, knob)
        if knob == "alpha" and value is None:
            continue
        if value not in newest or cell.rank > cells[newest[value]].rank:
            newest[value] = number
    return newest


def _value(cell: Cell, knob: str) -> Any:
    if knob == "alpha":
        return cell.asked_alpha
    if knob == "method":
        return (cell.method, cell.alpha or 0.0)
    if knob == "data":
        return (cell.data, cell.sizes, cell.tokens)
    return getattr(cell, knob)


def _columns(cells: Sequence[Cell]) -> dict[str, list[int]]:
    """Properties that have to agree while a knob varies, less those it leaves free: by name, for every cell the number
    of the value that it has."""
    values: dict[str, list[Any]] = {
        "calibration": [(c.model, c.identity, c.dtype) for c in cells],
        "alpha": [c.asked_alpha for c in cells],
        "method": [c.method for c in cells],
        "format": [c.format for c in cells],
        "granularity": [c.granularity for c in cells],
        "data": [(c.tokens, c.sizes) for c in cells],
    }
    return {name: _numbered(column) for name, column in values.items()}


def _numbered(values: Sequence[Any]) -> list[int]:
    """Equal numbers for equal values, which are grouped by more than once."""
    numbers: dict[Any, int] = {}
    return [numbers.setdefault(value, len(numbers)) for value in values]


def _context(cell: Cell, knob: str, text: str, rest: str) -> str:
    """The properties held fixed. text, rest: what tells the calibration from others, see `observed`."""
    setting = {"alpha": cell.method, "method": None}.get(knob, cell.setting)
    parts = {
        "model": cell.model,
        "data": text,
        "calibration": rest,
        "setting": setting,
        "format": cell.format,
        "granularity": cell.granularity,
    }
    return " · ".join(text for key, text in parts.items() if text and key != knob)


def _text(knob: str, value: Any, cell: Cell) -> str:
    if knob == "method":
        return cell.setting
    if knob == "data":
        return f"{cell.data} {cell.sizes} {cell.tokens[:6]}"
    return f"{value:.10g}" if knob == "alpha" else str(value)


def _position(knob: str, values: list[Any], chosen: list[bool]) -> int:
    if any(chosen):
        return chosen.index(True)
    reference = REFERENCE.get(knob)
    for i, value in enumerate(values):
        if reference is not None and reference in (value, value[0] if isinstance(value, tuple) else value):
            return i
    if knob == "alpha":
        return min(range(len(values)), key=lambda i: abs(values[i] - 0.9995))
    return 0


def _baseline(cells: Sequence[Cell], text: str | None) -> set[int]:
    if text is None:
        return set()
    if "=" in text and not Path(text).exists():
        wanted = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
        unknown = set(wanted) - {"model", "method", "alpha", "format", "granularity", "data"}
        if unknown:
            raise UsageError(f"baseline: {', '.join(sorted(unknown))} is no knob; allowed: {', '.join(KNOBS)}")
        matching = {n for n, c in enumerate(cells) if all(_is(c, key, value) for key, value in wanted.items())}
    else:
        matching = {n for n, c in enumerate(cells) if text.rstrip("/") in (c.name, str(c.path)) or text in str(c.path)}
    if not matching:
        raise UsageError(f"baseline={text}: no cell is that; for example baseline=alpha=0.9995 or a cell's directory")
    return matching


def _is(cell: Cell, key: str, value: str) -> bool:
    if key != "alpha":
        return str(getattr(cell, key)).lower() == value.lower()
    try:
        return cell.asked_alpha == float(value)
    except ValueError:
        raise UsageError(f"baseline: alpha={value} is no number; for example alpha=0.9995") from None
