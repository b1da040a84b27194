"""Looks at a calibration that stops by itself, in W&B as they happen: each is one step, whatever is killed between."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import cells
import numpy as np
import pytest
from cells import record
from resuming import resuming
from wandb_runs import Server, inspect, offline_runs

from sweep.calibration.until import Decision, Errors, Goal, Look
from sweep.config.knobs import Wandb
from sweep.runs.tracking import delivery, view
from sweep.runs.tracking.command import main
from sweep.runs.tracking.wandb import WandbTracker, start
from tests.harness import ROOT

GOAL = Goal(0.01, 0.95)
PLACES = [(layer, "x_conv_out") for layer in range(3)]
LOOKS = tuple(
    Look.at(samples, "mse int8 tensor", GOAL, Errors(PLACES, np.array(errors), 0.1))
    for samples, errors in ((64, (0.3, np.inf, 0.2)), (128, (0.03, 0.02, 0.01)), (256, (0.003, 0.002, 0.001)))
)
ROWS = [row for look in LOOKS for row in view.of_look(look)]


def decided(directory: Path) -> Path:
    decision = Decision("ef" * 32, GOAL, 512, 1, LOOKS)
    calibration = cells.RECORD["calibration"] | {"until": decision.to_dict()}
    return cells.finished(directory, calibration=calibration, layers=3)


def begin(cell: Path, mode: str = "auto") -> WandbTracker:
    tracker = start(Wandb(mode=mode), cell, record(cell)["name"], "the-group", record(cell)["config"])
    assert isinstance(tracker, WandbTracker)
    return tracker


def die_after(looks: int, cell: Path, mode: str, arrived: Callable[[], bool]) -> None:
    """Track a cell in a process of its own that is killed (-9) when so many looks have arrived."""
    program = textwrap.dedent(
        f"""
        import pathlib, time
        import test_wandb_looks as test

        tracker = test.begin(pathlib.Path({str(cell)!r}), {mode!r})
        for look in test.LOOKS[:{looks}]:
            tracker.looked(look)
        time.sleep(120)
        """
    )
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "e2e")))
    process = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path})
    try:
        deadline = time.monotonic() + 90
        while not arrived():
            assert process.poll() is None
            assert time.monotonic() < deadline, "nothing arrives"
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()


def logged(history: list[dict[str, object]]) -> list[tuple[object, dict[str, object]]]:
    """Each row of a look and its step."""
    rows = [{key: value for key, value in row.items() if not key.startswith("_")} for row in history]
    return [
        (row["_step"], plain)
        for row, plain in zip(history, rows, strict=True)
        if any(key.startswith(("tolerance/", "until/")) for key in plain)
    ]


def test_they_are_logged_as_they_happen_and_once(tmp_path: Path) -> None:
    cell = decided(tmp_path / "0")
    few = list(enumerate(ROWS[: len(view.of_look(LOOKS[0]) + view.of_look(LOOKS[1]))]))

    def arrived() -> bool:
        try:
            return any(logged(inspect(run).history) == few for run in offline_runs(cell) if [*run.glob("*.wandb")])
        except subprocess.CalledProcessError:
            return False  # a log that has only begun

    die_after(2, cell, "offline", arrived)
    (partial,) = offline_runs(cell)

    tracker = begin(cell, "offline")
    for look in LOOKS:  # those that are stored are told again
        tracker.looked(look)
    tracker.results(cell)
    tracker.finish()
    (whole,) = set(offline_runs(cell)) - {partial}
    log = inspect(whole)
    assert logged(log.history) == list(enumerate(ROWS))
    assert [row["_step"] for row in log.history] == list(range(len(ROWS) + 3 + 1))  # layers, and the table
    assert [row["layer"] for row in log.history[len(ROWS) : -1]] == [0, 1, 2]
    assert log.metrics["tolerance/*"]["step_metric"] == "samples"
    assert log.metrics["until/*"]["step_metric"] == "layer"
    assert log.summary["until/settled/256"] == 1.0


def test_where_the_decision_was_stored_they_are_read_off_the_files(tmp_path: Path) -> None:
    cell = decided(tmp_path / "0")
    assert main(["replay", str(cell), "--mode", "offline"]) == 0
    (place,) = offline_runs(cell)
    assert logged(inspect(place).history) == list(enumerate(ROWS))


@pytest.mark.slow
@pytest.mark.parametrize("looks", [1, 3])
def test_killed_and_gone_on_with_no_step_comes_twice(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    cell = decided(tmp_path / "0")
    with resuming(server) as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        few = list(enumerate(row for look in LOOKS[:looks] for row in view.of_look(look)))
        identity = delivery.attempt(cell, record(cell)["config"])

        def arrived() -> bool:
            there = server.ask("select 1 from metrics where run_id = ?", identity)
            return bool(there) and logged(server.history(identity)) == few

        die_after(looks, cell, "online", arrived)
        tracker = begin(cell, "online")
        assert tracker.record
        assert tracker.record["id"] == identity
        for look in LOOKS:
            tracker.looked(look)
        tracker.results(cell)
        tracker.finish()
    history = server.history(identity)
    assert [row["_step"] for row in history] == list(range(len(ROWS) + 3 + 1))
    assert logged(history) == list(enumerate(ROWS))
