"""Offline runs, read back with W&B's own reader and compared with the cell's Parquet files."""

from __future__ import annotations

import http.server
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cells import finished, record
from wandb_runs import KEY, assert_tells_all, die_after, free_port, inspect, offline_runs

from sweep.config.knobs import Wandb
from sweep.runs.tracking import wandb_connection
from sweep.runs.tracking.command import main
from sweep.runs.tracking.tracker import NullTracker
from sweep.runs.tracking.wandb import WandbTracker, start
from tests.harness import Run


@pytest.fixture(autouse=True)
def _nobody(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no home: what is configured on this machine does not matter."""
    for name in list(os.environ):
        if name.startswith("WANDB_") and name != "WANDB_BASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setattr(wandb_connection, "_refused", set())


def track(cell: Path, settings: Wandb) -> WandbTracker | NullTracker:
    saved = record(cell)
    tracker = start(settings, cell, saved["name"], "the-group", saved["config"])
    tracker.progress(4, 8)
    tracker.progress(8, 8)
    tracker.results(cell)
    tracker.finish()
    return tracker


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name.startswith("sweep")]


def test_an_offline_run_tells_what_the_table_says(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cell = finished(tmp_path / "0", layers=4)
    before = dict(os.environ)
    tracker = track(cell, Wandb(tags=["one", "two"]))  # auto, without a key

    (place,) = offline_runs(cell)
    log = inspect(place)
    assert_tells_all(log, cell)
    run = {key: log.run[key] for key in ("project", "run_group", "job_type", "display_name", "tags")}
    assert run == {
        "project": "mamba-scales",
        "run_group": "the-group",
        "job_type": "calibrate",
        "display_name": "tiny percentile a=0.9995 int8 tensor",
        "tags": ["one", "two"],
    }
    assert log.summary["calibration/done"] == 8
    assert tracker.complete
    assert tracker.record == {"mode": "offline", "id": log.run["run_id"], "dir": f"wandb/{place.name}", "url": None}
    assert tracker.hint == f"wandb sync {place}"
    assert dict(os.environ) == before
    assert not list(Path.home().iterdir())  # all of W&B's files are inside the run directory
    assert capfd.readouterr() == ("", "")


def test_cells_of_one_process_keep_to_their_directories(tmp_path: Path) -> None:
    cells = [finished(tmp_path / str(i), layers=2, groups=1 + 2 * i, seed=i) for i in range(2)]
    for cell in cells:
        track(cell, Wandb(mode="offline"))
    for cell in cells:
        (place,) = offline_runs(cell)
        assert_tells_all(inspect(place), cell)
        assert list((cell / "wandb" / "data").rglob("tmp*"))  # what is staged for the table's artifact
    assert sorted(tmp_path.iterdir()) == cells
    assert not list(Path.home().iterdir())


def test_a_failed_cell_is_a_failed_run(tmp_path: Path) -> None:
    tracker = start(Wandb(mode="offline"), tmp_path, "name", "group", {})
    tracker.finish(failed=True)
    (place,) = offline_runs(tmp_path)
    assert inspect(place).exit_code == 1
    assert not tracker.complete


def test_killed_midway_then_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = finished(tmp_path / "grid" / "0", layers=4)
    die_after(2, cell, {})
    (partial,) = offline_runs(cell)
    log = inspect(partial)
    assert [item["layer"] for item in log.history] == [0, 1]
    assert log.summary["calibration/done"] == 8
    assert log.exit_code is None

    assert main(["replay", str(tmp_path), "--mode", "offline"]) == 0
    (complete,) = set(offline_runs(cell)) - {partial}
    log = inspect(complete)
    assert_tells_all(log, cell)
    assert log.run["run_id"] == partial.name.rpartition("-")[2] == record(cell)["wandb"]["id"]
    assert log.run["run_group"] == "grid"
    assert capsys.readouterr().out.startswith("sent ")

    assert main(["replay", str(tmp_path), "--mode", "offline"]) == 0
    assert set(offline_runs(cell)) == {partial, complete}
    assert capsys.readouterr().out.startswith("there ")


def test_a_cell_started_again_goes_on_with_its_run(tmp_path: Path) -> None:
    cell = finished(tmp_path / "0", layers=2)
    die_after(1, cell, {})
    first = record(cell)["wandb"]["id"]
    again = track(cell, Wandb(mode="offline"))
    assert again.record
    assert again.record["id"] == first
    anew = track(cell, Wandb(mode="offline"))  # that one was complete: this is another run
    assert anew.record
    assert anew.record["id"] != first


def test_unreachable_falls_back_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wandb_connection, "CONNECT", 1.0)
    init, tried = wandb_connection._init, []

    def noted(mode: Any, *rest: Any) -> Any:
        tried.append(mode)
        return init(mode, *rest)

    monkeypatch.setattr(wandb_connection, "_init", noted)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_port()}")
    cells = [finished(tmp_path / str(i), layers=2) for i in range(2)]
    begin = time.monotonic()
    for cell, mode in zip(cells, ("auto", "online"), strict=True):
        assert track(cell, Wandb(mode=mode)).complete
        (place,) = offline_runs(cell)
        assert_tells_all(inspect(place), cell)
        assert not list((cell / "wandb").glob("run-*"))
    said = warnings(caplog)
    assert len(said) == 2
    assert all("tracking offline" in line and "\n" not in line for line in said)
    assert time.monotonic() - begin < 30
    assert tried == ["online", "offline", "offline"]  # the second cell does not wait again


@pytest.fixture
def refusing() -> Iterator[str]:
    """A server to which every key is wrong."""

    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("key", [KEY, "too-short"])
def test_with_a_key_that_is_refused_online_goes_offline(
    key: str, refusing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", refusing)
    monkeypatch.setenv("WANDB_API_KEY", key)
    cell = finished(tmp_path / "0", layers=2)
    assert track(cell, Wandb(mode="online")).complete
    (place,) = offline_runs(cell)
    assert_tells_all(inspect(place), cell)
    (warning,) = warnings(caplog)
    assert warning.endswith("tracking offline")
    assert warning.count("\n") == 0


def test_replay_of_what_cannot_be_reached_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wandb_connection, "CONNECT", 2.0)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_port()}")
    cell = finished(tmp_path / "0", layers=2)
    assert main(["replay", str(cell), "--mode", "online"]) == 2
    assert "wandb login" in capsys.readouterr().err
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert main(["replay", str(cell)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: W&B: http://127.0.0.1")
    assert err.count("\n") == 1
    assert not offline_runs(cell)


def test_the_cells_of_a_multirun_share_a_group(sweep: Run, tmp_path: Path) -> None:
    small = ["calibration.samples=4", "calibration.folds=2", "calibration.seqlen=32", "hydra.sweep.dir=runs/grid"]
    done = sweep("-m", "method=minmax,percentile", *small, "wandb.mode=offline")
    assert done.returncode == 0, done.stderr
    logs = []
    for cell in sorted((tmp_path / "runs" / "grid").glob("[0-9]*")):
        (place,) = offline_runs(cell)
        logs.append(inspect(place))
        assert_tells_all(logs[-1], cell)
    assert [log.run["run_group"] for log in logs] == ["grid", "grid"]
    assert [log.run["display_name"] for log in logs] == [
        "tiny minmax int8 tensor samples=4 seqlen=32 folds=2",
        "tiny percentile a=0.9995 int8 tensor samples=4 seqlen=32 folds=2",
    ]
    assert logs[0].config["cell"]["alpha"] is None  # a dead knob is not shown as a live one
    assert len({log.run["run_id"] for log in logs}) == 2
