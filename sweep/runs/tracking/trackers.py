"""All trackers of a cell as one: W&B, and those of other packages.

A new one is a class with the methods of `Tracker`, and what starts it: a function of a TrackedRun that returns one, or
None where it has nothing to do. An installed package names it as an entry point:

    [project.entry-points."sweep.trackers"]
    notebook = "my_package.notebook:start"
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from sweep.calibration.until import Look
from sweep.core.errors import UsageError, first_line
from sweep.core.progress import GRADIENTS, SAMPLES
from sweep.runs.results import Json
from sweep.runs.tracking import wandb
from sweep.runs.tracking.tracker import TrackedRun, Tracker

GROUP = "sweep.trackers"
log = logging.getLogger(__name__)

Start = Callable[[TrackedRun], Tracker | None]


class Trackers:
    """All that follow one cell, by name. An error of one costs a warning, and it is told nothing more but the end."""

    def __init__(self, trackers: dict[str, Tracker]) -> None:
        self._all, self._broken = trackers, set[str]()

    @property
    def records(self) -> dict[str, Json]:
        return {name: one.record for name, one in self._all.items() if one.record is not None}

    @property
    def hints(self) -> list[str]:
        return [one.hint for one in self._all.values() if one.hint]

    def progress(self, done: int, total: int, phase: str = SAMPLES) -> None:
        if phase == GRADIENTS:
            self._tell(lambda one: one.differentiated(done, total) if hasattr(one, "differentiated") else None)
        else:
            self._tell(lambda one: one.progress(done, total))

    def looked(self, look: Look) -> None:
        self._tell(lambda one: one.looked(look) if hasattr(one, "looked") else None)

    def results(self, directory: Path) -> None:
        self._tell(lambda one: one.results(directory))

    def finish(self, failed: bool = False) -> None:
        self._broken.clear()
        self._tell(lambda one: one.finish(failed))

    def _tell(self, say: Callable[[Tracker], None]) -> None:
        for name, one in self._all.items():
            if name not in self._broken:
                try:
                    say(one)
                except Exception as error:  # of foreign code
                    self._broken.add(name)
                    log.warning("tracker %s: %s: %s; the cell goes on", name, type(error).__name__, first_line(error))


@cache
def known() -> dict[str, Start]:
    """The start functions of all trackers by name: W&B, and those of installed packages."""
    return {
        "wandb": wandb.follow,
        **{entry.name: partial(_load_and_start, entry) for entry in entry_points(group=GROUP)},
    }


def _load_and_start(entry: EntryPoint, run: TrackedRun) -> Tracker | None:
    begin: Start = entry.load()
    return begin(run)


def start(run: TrackedRun) -> Trackers:
    """Raises UsageError where a tracker was asked for what cannot be, and for nothing else."""
    trackers: dict[str, Tracker] = {}
    for name, begin in known().items():
        try:
            if (one := begin(run)) is not None:
                trackers[name] = one
        except UsageError:
            raise
        except Exception as error:  # no tracker is better than no cell
            log.warning("tracker %s: %s: %s; not tracked", name, type(error).__name__, first_line(error))
    return Trackers(trackers)
