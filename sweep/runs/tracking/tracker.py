"""The interface of trackers: one is told of a cell's progress and of its files, and its failure costs no cell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sweep.calibration.until import Look
from sweep.config.config import Config
from sweep.runs.results import Json


@dataclass(frozen=True)
class TrackedRun:
    """A cell that starts. directory: its own. name: unique in its group, the sweep unless asked otherwise."""

    directory: Path
    name: str
    group: str
    config: Config


class Tracker(Protocol):
    """record: what run.json keeps of the tracked run. hint: how it is seen; both None where there is none."""

    @property
    def record(self) -> Json | None: ...

    @property
    def hint(self) -> str | None: ...

    def progress(self, done: int, total: int) -> None:
        """Samples observed, and in all."""

    def differentiated(self, done: int, total: int) -> None:
        """Samples differentiated for predicted loss, and in all. A tracker need not have this method."""

    def looked(self, look: Look) -> None:
        """Errors after so many samples, where they decide when to stop. A tracker need not have this method."""

    def results(self, directory: Path) -> None:
        """The cell is finished: everything is in its files (`view.read` has it in plain numbers)."""

    def finish(self, failed: bool = False) -> None:
        """The last call, whatever became of the cell."""


@dataclass(frozen=True)
class NullTracker:
    """Follows nothing, writes nothing: where tracking is off."""

    record: Json | None = None
    hint: str | None = None

    def progress(self, done: int, total: int) -> None: ...

    def differentiated(self, done: int, total: int) -> None: ...

    def looked(self, look: Look) -> None: ...

    def results(self, directory: Path) -> None: ...

    def finish(self, failed: bool = False) -> None: ...
