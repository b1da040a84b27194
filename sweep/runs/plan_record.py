"""plan.json, in a sweep's directory: its cells as they were planned, by which a later run recognizes the sweep."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sweep.core.files import write_json
from sweep.runs.results import Json

FILE = "plan.json"
SCHEMA = 1


@dataclass(frozen=True)
class PlannedCell:
    """number: of the cell's job. directory: below the sweep's. name: for people. overrides: as on the command line.
    calibration: its key, as the store spells it. identity: equal for cells that cannot differ."""

    number: int
    directory: str
    name: str
    overrides: tuple[str, ...]
    calibration: str
    identity: str

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> PlannedCell:
        """Raises KeyError where a key is missing. Early plans lack `directory`: it was the number."""
        number = raw["number"]
        directory, overrides = raw.get("directory", str(number)), tuple(raw["overrides"])
        return cls(number, directory, raw["name"], overrides, raw["calibration"], raw["identity"])


@dataclass(frozen=True)
class PlanRecord:
    """cells: in the order of their numbers. demands: what cells ask of a calibration that stops by itself, by the hash
    of its question (`until.asked`): the most demanding of them decides, whichever process calibrates."""

    cells: tuple[PlannedCell, ...]
    demands: Mapping[str, Sequence[Json]] = field(default_factory=dict)

    @property
    def identities(self) -> frozenset[str]:
        return frozenset(cell.identity for cell in self.cells)

    def write(self, directory: Path) -> None:
        write_json(
            directory / FILE,
            {"schema": SCHEMA, "cells": [asdict(cell) for cell in self.cells], "demands": self.demands},
        )


def read(directory: Path) -> PlanRecord | None:
    """The plan of the sweep that lies in a directory; None if there is no plan, or none of this schema."""
    try:
        raw = json.loads((directory / FILE).read_bytes())
        if raw["schema"] != SCHEMA:
            return None
        return PlanRecord(tuple(map(PlannedCell.from_dict, raw["cells"])), raw.get("demands") or {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
