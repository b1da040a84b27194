"""Online runs: the genuine client against a W&B-compatible server on loopback, whose data base is read back."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb
from cells import finished, record
from resuming import resuming
from wandb_runs import Server, die_after, offline_runs

from sweep.config.knobs import Wandb
from sweep.core.files import write_json
from sweep.runs.tracking import view, wandb_connection
from sweep.runs.tracking.command import main
from sweep.runs.tracking.tracker import NullTracker
from sweep.runs.tracking.wandb import WandbTracker, start
from sweep.runs.tracking.wandb_connection import Identity


def begin(cell: Path, settings: Wandb) -> WandbTracker | NullTracker:
    saved = record(cell)
    return start(settings, cell, saved["name"], "the-group", saved["config"])


def test_an_online_run_arrives(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cell = finished(tmp_path / "0", layers=3)
    tracker = begin(cell, Wandb(tags=["one"]))  # auto, with a key
    assert tracker.record
    identity = tracker.record["id"]
    assert server.run(identity)["state"] == "running"
    tracker.progress(8, 8)
    tracker.results(cell)
    tracker.finish()
    assert tracker.complete
    server.assert_has_all(cell, identity)
    run = server.run(identity)
    assert run["display_name"] == "tiny percentile a=0.9995 int8 tensor"
    assert run["tags_json"] == '["one"]'
    assert tracker.record["mode"] == "online"
    assert (
        tracker.hint == tracker.record["url"] == f"{server.env['WANDB_BASE_URL']}/default/mamba-scales/runs/{identity}"
    )
    assert not list(Path.home().iterdir())
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_killed_midway_then_replayed_then_not_sent_again(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = finished(tmp_path / "grid" / "0", layers=4)
    die_after(2, cell, server.env)
    identity = record(cell)["wandb"]["id"]
    assert server.run(identity)["state"] == "running"  # a real server says `crashed` when the heartbeat is missed

    assert main(["replay", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("sent ")
    server.assert_has_all(cell, identity)
    steps = len(server.history(identity))

    assert main(["replay", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("there ")
    assert len(server.history(identity)) == steps


def test_a_run_of_which_a_part_arrived_is_sent_the_rest_alone(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = finished(tmp_path / "grid" / "0", layers=4)
    shown, identity = view.read(cell), Identity("partial00001", "name", "grid", "calibrate")
    with resuming(server) as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        run = wandb_connection.online(address, Wandb(), cell, identity, {})
        for layer in (0, 1):
            run.log({"layer": layer, **shown.layers[layer]}, step=layer, commit=True)
        run.finish()
        wandb.teardown()
        assert [step["_step"] for step in server.history(identity.id)] == [0, 1]

        write_json(cell / "run.json", record(cell) | {"wandb": {"id": identity.id}})
        assert main(["replay", str(cell)]) == 0
    assert [step["_step"] for step in server.history(identity.id)] == [0, 1, 2, 3, 4]  # 4 is the table
    assert {row["key"] for row in server.ask("select * from metrics where run_id = ? and step = 3", identity.id)} == {
        "layer",
        *shown.layers[3],
    }


def test_what_stayed_offline_is_replayed_and_the_rest_is_named(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    never = finished(tmp_path / "grid" / "0", layers=2, seed=0)  # wandb.mode=disabled
    offline = finished(tmp_path / "grid" / "1", layers=2, seed=1, wandb={"mode": "offline", "id": "offline0001"})
    finished(tmp_path / "grid" / "2", status="running")
    options = ["--project", "other", "--entity", "default", "--group", "all"]
    assert main(["replay", str(tmp_path / "grid"), *options]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out[:3]] == ["sent", "sent", "skipped"]
    identity = out[0].rpartition("/")[2]
    server.assert_has_all(never, identity)
    server.assert_has_all(offline, "offline0001")
    (project,) = server.ask("select name from projects where id = ?", server.run(identity)["project_id"])
    assert project["name"] == "other"


def test_the_hint_of_an_offline_run_uploads_it(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = finished(tmp_path / "a folder" / "0", layers=2)
    tracker = begin(cell, Wandb(mode="offline"))
    tracker.results(cell)
    tracker.finish()
    assert tracker.hint
    assert tracker.record
    command = [sys.executable, "-m", *shlex.split(tracker.hint)]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)  # it logs where it is
    server.assert_has_all(cell, tracker.record["id"])


@pytest.mark.slow
def test_a_server_that_goes_away_costs_a_bounded_wait_and_a_replay(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cell = finished(tmp_path / "0", layers=2)
    with monkeypatch.context() as impatient:
        impatient.setattr(wandb_connection, "DELIVER", 2.0)
        impatient.setattr("wandb.apis.public.Api._HTTP_TIMEOUT", 2)  # 19 s, read once from WANDB_HTTP_TIMEOUT
        tracker = begin(cell, Wandb(mode="online"))
        assert tracker.record
        server.stop()
        try:
            waited = time.monotonic()
            tracker.results(cell)
            tracker.finish()
            assert time.monotonic() - waited < 20
        finally:
            server.start()
    assert not tracker.complete
    assert tracker.hint == f"python -m sweep.track replay {cell}"
    assert len([r for r in caplog.records if r.name.startswith("sweep")]) == 1
    assert not offline_runs(cell)

    write_json(cell / "run.json", record(cell) | {"wandb": tracker.record})
    assert main(["replay", str(cell)]) == 0
    server.assert_has_all(cell, tracker.record["id"])
