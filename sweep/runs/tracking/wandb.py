"""One W&B run beside a cell. It may fail without the cell failing: the cell's files are the truth, and replay
sends them later. Everything that W&B writes stays inside the run directory."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any

from sweep.calibration.until import Look
from sweep.config.knobs import Wandb
from sweep.core.cli import spelled
from sweep.core.errors import UsageError
from sweep.runs.results import Json
from sweep.runs.tracking import delivery, view, wandb_connection
from sweep.runs.tracking.delivery import OFFLINE, Destination
from sweep.runs.tracking.tracker import NullTracker, TrackedRun, Tracker
from sweep.runs.tracking.wandb_connection import Identity, NoKey, Unreachable, first_line, inside

log = logging.getLogger(__name__)

EVERY = 1.0  # seconds between reports of progress


class WandbTracker:
    """A W&B run. No method raises because of W&B.

    record: what run.json says of the run. hint: the line that tells how to see it.
    complete: whether all that the cell's files say was logged and, online, arrived; known after `finish`."""

    def __init__(self, directory: Path, run: Any, destination: Destination | None = None) -> None:
        self.directory, self._destination = directory, destination
        self._run: Any = run  # None once it has ended
        self.complete = False
        self._broken = False
        self._reported: dict[str, float] = {}  # when each phase was
        self._looks = 0  # rows of looks that were logged
        place = Path(run.settings.sync_dir)
        if place.is_relative_to(directory.resolve()):
            place = place.relative_to(directory.resolve())
        url = None if run.offline else run.url
        self.record: Json = {"mode": run.settings.mode, "id": run.id, "dir": str(place), "url": url}
        self.hint: str = url or f"wandb sync {quote(str(directory / place))}"

    def progress(self, done: int, total: int) -> None:
        """Samples observed and in all. Kept in the summary: the steps of the history are looks and layers."""
        self._report({"calibration/done": done, "calibration/samples": total}, done == total)

    def differentiated(self, done: int, total: int) -> None:
        """Samples differentiated and in all, for predicted loss."""
        self._report({"calibration/gradients_done": done, "calibration/gradients": total}, done == total)

    def _report(self, counts: dict[str, int], last: bool) -> None:
        phase, clock = next(iter(counts)), time.monotonic()
        if self._run is None or self._broken or (not last and clock - self._reported.get(phase, -EVERY) < EVERY):
            return
        self._reported[phase] = clock
        with self._sparing_the_cell():
            self._run.summary.update(counts)

    def looked(self, look: Look) -> None:
        """The errors after so many samples, at once: in the summary, over the number of samples, and a curve over the
        layers."""
        if self._run is None or self._broken:
            return
        with self._sparing_the_cell():
            self._run.summary.update(view.summary_of_look(look))
            self._looks = _log_looks(self._run, view.of_look(look), self._looks)

    def results(self, directory: Path) -> None:
        """Log everything, from the files of the finished cell in `directory` alone."""
        if self._run is None or self._broken:
            return
        shown = view.read(directory)
        with self._sparing_the_cell():
            _log(self._run, shown, self._looks)
            self.complete = True

    def finish(self, failed: bool = False) -> None:
        """End the run, wait for its uploads (a minute at most), and stop W&B's background process."""
        if self._run is None:
            return
        import wandb

        run, self._run = self._run, None
        self.complete &= not failed
        with self._sparing_the_cell():
            try:
                run.finish(exit_code=1 if failed else 0)
            except BaseException:
                self.complete = False
                raise
            finally:
                wandb.teardown()
            if self.complete and self._destination:
                delivery.deliver(self.directory, self._destination, str(self.hint))

    @contextmanager
    def _sparing_the_cell(self) -> Iterator[None]:
        """W&B's troubles, of whatever kind, cost the cell a warning, and the user a replay."""
        try:
            with inside(self.directory):
                yield
        except Exception as error:
            self.hint = f"{spelled('track')} replay {quote(str(self.directory))}"
            if not self._broken:
                log.warning("W&B: %s; nothing is lost, send it later with: %s", first_line(error), self.hint)
            self._broken, self.complete = True, False


def follow(run: TrackedRun) -> Tracker:
    """`start` with the settings of the cell's configuration."""
    settings = run.config.wandb
    return start(settings, run.directory, run.name, settings.group or run.group, run.config.to_dict())


def start(settings: Wandb, directory: Path, name: str, group: str, config: Json) -> WandbTracker | NullTracker:
    """The run of a cell: online if that is asked for and possible, else offline. Raises UsageError where `online` was
    asked for without a key, and never because of W&B.

    A cell that was killed and is started again in the same directory goes on with its run."""
    mode = wandb_connection.mode(settings.mode)
    if mode == "disabled":
        return NullTracker()
    try:
        identity = Identity(delivery.attempt(directory, config), name, group, "calibrate")
        if mode != "offline":
            try:
                if server := wandb_connection.server(mode, directory):
                    return open_run(server, settings, directory, identity, config)
            except NoKey as error:
                raise UsageError(f"wandb.mode={mode}: {error}, or use wandb.mode=offline") from error
            except Unreachable as error:
                log.warning("W&B: %s; tracking offline", error)
        return open_run(OFFLINE, settings, directory, identity, config)
    except UsageError:
        raise
    except Exception as error:  # no W&B run is better than no cell
        log.warning("W&B: %s; not tracked", first_line(error))
        return NullTracker()


def check(asked: str) -> None:
    """Raises UsageError where `online` was asked for without a key: before a grid starts, not in each of its cells."""
    if (mode := wandb_connection.mode(asked)) != "online":
        return
    with tempfile.TemporaryDirectory() as place:
        try:
            wandb_connection.server(mode, Path(place))
        except NoKey as error:
            raise UsageError(f"wandb.mode={mode}: {error}, or use wandb.mode=offline") from error
        except Unreachable:
            pass  # a cell says so, and tracks offline


def open_run(server: str, settings: Wandb, directory: Path, identity: Identity, config: Json) -> WandbTracker:
    """A run at that server, or offline. Raises Unreachable where the server does not take it."""
    opened = (
        wandb_connection.online(server, settings, directory, identity, config)
        if server
        else wandb_connection.offline(settings, directory, identity, config)
    )
    return WandbTracker(
        directory, opened, Destination(server, settings.entity, str(settings.project), identity.group, opened.id)
    )


def _log_looks(run: Any, rows: list[dict[str, float]], first: int) -> int:
    """Log rows of looks as the steps from `first` on; returns the step after them."""
    for key, family in (("samples", "tolerance"), ("layer", "until")):
        run.define_metric(key, hidden=True)
        run.define_metric(f"{family}/*", step_metric=key, summary="none")
    for step, row in enumerate(rows, start=first):
        run.log(row, step=step, commit=True)
    return first + len(rows)


def _log(run: Any, shown: view.View, told: int) -> None:
    """Steps are said explicitly, so that a run resumed or replayed has each of them once: first those of the looks, of
    which the first `told` are there, then step k after them is layer k."""
    import wandb

    run.config.update(shown.config, allow_val_change=True)
    if shown.notes:
        run.notes = shown.notes
    begin = _log_looks(run, shown.looks[told:], told) if shown.looks else 0
    run.define_metric("layer", hidden=True)
    for family in shown.families:
        run.define_metric(f"{family}/*", step_metric="layer", summary="none")
    for layer, series in shown.layers.items():
        bins = shown.histograms.get(layer, {})
        histograms = {key: wandb.Histogram(np_histogram=pair) for key, pair in bins.items()}
        run.log({"layer": layer, **series, **histograms}, step=begin + layer, commit=True)
    columns = list(shown.rows[0])
    wandb.Table.MAX_ROWS = max(wandb.Table.MAX_ROWS, len(shown.rows))  # its first 10,000 rows are not the table
    table = wandb.Table(columns=columns, data=[list(row.values()) for row in shown.rows], allow_mixed_types=True)
    run.log({"scales": table}, step=begin + max(shown.layers) + 1, commit=True)
    run.summary.update(shown.summary)
    artifact = wandb.Artifact(f"cell-{run.id}", type="cell", metadata=shown.config["cell"])
    for path in shown.files:
        artifact.add_file(str(path), policy="immutable", skip_cache=True)  # sent from where they lie
    run.log_artifact(artifact)
