"""Progress of a calibration, each phase by itself: bars with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

SAMPLES, GRADIENTS = "samples", "gradients"  # phases: samples observed, samples differentiated
EVERY = 10.0  # seconds between plain lines


class Progress(Protocol):
    """Is told how many passes of a phase are done, and how many there are."""

    def __call__(self, done: int, total: int, phase: str = SAMPLES, /) -> None: ...


def silent(done: int, total: int, phase: str = SAMPLES) -> None:
    """A Progress that shows nothing."""


@contextmanager
def progress(what: str, each: str = "") -> Iterator[Progress]:
    """Shows a bar, or a count, for each phase. each: what a pass is besides a sample or a gradient, as `x layers`."""
    if sys.stderr.isatty():
        from rich.markup import escape
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        from sweep.core.console import Console

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bars(*columns, console=Console(stderr=True)) as bars:
            tasks = {SAMPLES: bars.add_task(_named(escape(what), SAMPLES, each), total=None)}

            def bar(done: int, total: int, phase: str = SAMPLES) -> None:
                if phase not in tasks:
                    tasks[phase] = bars.add_task(_named(escape(what), phase, each), total=total)
                bars.update(tasks[phase], completed=done, total=total)

            yield bar
        return
    yield _Lines(what, each)


def _named(what: str, phase: str, each: str) -> str:
    return " ".join(filter(None, (f"{what}, {phase}", each)))


@dataclass
class _Count:
    """A phase: passes done and in all; how many were there at the start, which a resumed calibration does not take
    again, and the seconds that the others took."""

    done: int
    total: int
    before: int
    seconds: float = 0.0

    @property
    def left(self) -> float:
        """Seconds; 0 while nothing of it is known."""
        return self.seconds / max(self.done - self.before, 1) * (self.total - self.done)


class _Lines:
    """A line on stderr every EVERY seconds, and at the end of all phases."""

    def __init__(self, what: str, each: str) -> None:
        self._what, self._each = what, each
        self._counts: dict[str, _Count] = {}
        self._told = self._said = time.monotonic()

    def __call__(self, done: int, total: int, phase: str = SAMPLES) -> None:
        clock = time.monotonic()
        count = self._counts.setdefault(phase, _Count(done, total, done))
        count.seconds += clock - self._told
        count.done, count.total, self._told = done, total, clock
        finished = all(one.done == one.total for one in self._counts.values())
        if not (finished and done > count.before) and clock - self._said < EVERY:
            return
        self._said = clock
        counts = [f"{one.done}/{one.total} {_named('', name, self._each)[2:]}" for name, one in self._counts.items()]
        open_ = any(one.done == one.before < one.total for one in self._counts.values())  # and nothing known of it
        left = f"{'more than ' if open_ else ''}{sum(one.left for one in self._counts.values()):.0f} s left"
        phase = f", {phase}" if len(counts) > 1 and not finished else ""
        print(f"{self._what}{phase}: {', '.join([*counts, left])}", file=sys.stderr, flush=True)
