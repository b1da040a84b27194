"""Progress of a calibration: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY = 10.0  # seconds between plain lines


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function to be called with (samples done, samples in all)."""
    if sys.stderr.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from sweep.core.console import Console

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return

    last = time.monotonic()
    first: tuple[float, int] | None = None  # a resumed calibration does not begin at nought

    def line(done: int, total: int) -> None:
        nonlocal last, first
        clock = time.monotonic()
        begin, before = first = first or (clock, done)
        if done == total or clock - last >= EVERY:
            last = clock
            left = (clock - begin) / max(done - before, 1) * (total - done)
            print(f"{what}: {done}/{total} samples, {left:.0f} s left", file=sys.stderr, flush=True)

    yield line
