"""`sweep.compare --log-wandb`, read back from W&B's own offline log and from a server on loopback."""

from __future__ import annotations

import io
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from resuming import resuming
from synthetic import mamba, write
from wandb_runs import Server, inspect

from sweep.compare.__main__ import main, run
from sweep.compare.answer import answer
from sweep.compare.query.comparison import load
from sweep.compare.render import wandb_log
from sweep.compare.render.pictures import save
from sweep.compare.tables.catalogue import tables
from sweep.runs.tracking import wandb_connection
from tests.harness import command


def two_cells(grid: Path, size: int = 200) -> None:
    world = mamba(layers=2, size=size)
    write(grid / "0", world, alpha=0.9995)
    write(grid / "1", world, alpha=0.99999)


@pytest.mark.slow
def test_a_comparison_becomes_one_offline_run_of_the_sweeps_group(tmp_path: Path) -> None:
    world = mamba(layers=2, size=200)
    for alpha in (0.9995, 0.99999):
        write(tmp_path / "runs" / "grid" / str(alpha), world, alpha=alpha)
    write(tmp_path / "runs" / "grid" / "g", world, method="minmax", grid=(2, 2))
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    done = command(
        tmp_path, "sweep.compare", "runs/gr*", "--no-html", "--log-wandb",
        WANDB_MODE="offline", HOME=str(tmp_path / "home"), TMPDIR=str(tmp_path / "temporary"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    (place,) = (tmp_path / "runs" / "grid" / "wandb").glob("offline-run-*")
    assert f"wandb sync {place.resolve()}" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "home", "temporary"}
    assert {path.name for path in (tmp_path / "runs" / "grid").iterdir()} == {"0.9995", "0.99999", "g", "wandb"}
    assert not [*(tmp_path / "home").iterdir(), *(tmp_path / "temporary").iterdir()]
    log = inspect(place)
    assert log.exit_code == 0
    shown = json.dumps(log.run)
    assert '"grid"' in shown
    assert "comparison of grid" in shown
    keys = {key for item in log.history for key in item} | set(log.summary)
    for table in ("tables/verdicts", "tables/alpha", "tables/tail", "answer/questions", "answer/verdicts"):
        assert any(key.startswith(table) for key in keys), table
    for chart in ("charts/scales", "charts/histogram", "charts/gain"):
        assert any(key.startswith(chart) for key in keys), chart
    assert len(list((place / "files").rglob("*.png"))) >= 5
    (questions,) = (place / "files").rglob("questions*.table.json")
    content = json.loads(questions.read_text())
    assert content["columns"] == ["question", "the study said", "verdict", "answer"]
    assert content["data"][0][0] == "What does alpha do?"
    assert len(content["data"]) == 9
    assert len(load(str(tmp_path / "runs" / "grid")).listed) == 3  # its own files are no cells


def test_a_disabled_wandb_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a", mamba(layers=1, size=50))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr("sys.argv", ["sweep.compare", str(tmp_path / "a"), "--no-html", "--log-wandb"])
    assert main() == 2
    said = capsys.readouterr().err
    assert said.startswith("error: W&B")
    assert said.count("\n") == 1


def arrived(server: Server, url: str) -> dict[str, dict[str, Any]]:
    """What the server says was logged: key → the record of a table or picture, its file under `file`."""
    identity = url.rpartition("/")[2]
    assert server.run(identity)["state"] == "finished"
    (step,) = server.history(identity)
    files = server.files(identity)
    return {key: {**value, "file": files / value["path"]} for key, value in step.items() if "/" in key}


@pytest.mark.slow
def test_a_comparison_arrives_at_the_server_as_it_is(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every table cell by cell, every picture pixel by pixel, the summary and the answer in words."""
    two_cells(tmp_path / "runs" / "grid")
    done = command(tmp_path, "sweep.compare", "runs/grid", "--no-html", "--log-wandb")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"W&B  {server.env['WANDB_BASE_URL']}/default/mamba-scales/runs/compare-")
    assert done.stderr.count("\n") == 1
    assert not list(Path.home().iterdir())
    url = done.stderr.split()[1]
    found = arrived(server, url)

    monkeypatch.chdir(tmp_path)  # the tables name the cells as the command line did
    expected = answer(load("runs/grid"))
    shown = {table.name: table for table in tables(expected) if table.rows}
    assert {key for key in found if key.startswith("tables/")} == {f"tables/{name}" for name in shown}
    for name, table in shown.items():
        content = json.loads(found[f"tables/{name}"]["file"].read_text())
        assert len(set(content["columns"])) == len(table.columns)
        rows = [[None if isinstance(v, float) and not math.isfinite(v) else v for v in row] for row in table.rows]
        for given, row in zip(content["data"], rows, strict=True):
            assert given == [pytest.approx(v, rel=1e-12) if isinstance(v, float) else v for v in row], name
    cells = json.loads(found["tables/cells"]["file"].read_text())
    assert [row[cells["columns"].index("alpha")] for row in cells["data"]] == [0.9995, 0.99999]
    verdicts = json.loads(found["answer/verdicts"]["file"].read_text())["data"]
    assert [row[:3] for row in verdicts] == [["alpha", v.contrast.context, v.verdict] for v in expected.verdicts]

    save(expected, tmp_path / "charts")
    drawn = {f"charts/{path.stem}": path for path in (tmp_path / "charts").glob("*.png")}
    assert {key for key in found if key.startswith("charts/")} == set(drawn)
    for key, path in drawn.items():
        with Image.open(path) as ours, Image.open(found[key]["file"]) as theirs:
            assert ours.size == theirs.size, key
            difference = np.asarray(ours.convert("RGB"), int) - np.asarray(theirs.convert("RGB"), int)
            assert np.abs(difference).max() <= 8, key  # a mean's last bit may differ, which moves a line by nothing

    stored = server.run(url.rpartition("/")[2])
    assert stored["display_name"] == "comparison of grid"
    (advice,), (verdict,) = expected.advice, expected.verdicts
    assert json.loads(stored["summary_json"]) == {
        "cells": 2, f"advice/{advice.context}": advice.best.setting, f"verdicts/{verdict.verdict}": 1,
    }  # fmt: skip
    assert f"- alpha ({verdict.contrast.context}): {verdict.verdict}." in stored["notes"]
    config = {key: entry["value"] for key, entry in json.loads(stored["config_json"]).items()}
    assert config["cells"] == ["runs/grid/0", "runs/grid/1"]


@pytest.fixture
def one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """No chart is drawn but a small one: all of them take their time, and are drawn in other tests."""
    drawn = io.BytesIO()
    Image.new("RGB", (4, 3)).save(drawn, "PNG")
    monkeypatch.setattr(wandb_log, "pngs", lambda _: {"scales": drawn.getvalue()})


@pytest.mark.usefixtures("one_picture")
def test_the_hint_of_an_offline_comparison_uploads_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    two_cells(tmp_path / "a folder" / "grid")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    run(["a folder/grid", "--no-html", "--log-wandb"])
    hint = shlex.split(capsys.readouterr().err.removeprefix("W&B"))
    subprocess.run([sys.executable, "-m", *hint], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    found = arrived(server, hint[-1].rpartition("-run-")[2].partition("-")[2])
    assert {"tables/cells", "answer/verdicts", "charts/scales"} <= set(found)


@pytest.mark.usefixtures("one_picture")
def test_the_same_cells_are_logged_anew_and_nothing_of_before_stays(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """W&B hands a resumed run its summary, and openwandb does so with the proxy's help. Its data base joins one
    summary to the next; W&B takes the last, which is in the run's file."""
    summaries = []
    monkeypatch.setattr(wandb_log, "tables", lambda a: [])
    with resuming(server) as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        for size in (200, 4000):  # too few values to tell, and enough
            shutil.rmtree(tmp_path / "grid", ignore_errors=True)
            two_cells(tmp_path / "grid", size)
            run([str(tmp_path / "grid"), "--no-html", "--log-wandb"])
            (identity,) = re.findall(r"^W&B .*/(.*)$", capsys.readouterr().err, re.MULTILINE)
            summaries.append(json.loads((server.files(identity) / "wandb-summary.json").read_text()))
    assert [step["_step"] for step in server.history(identity)] == [0, 1]
    before, after = ({key for key in summary if key.startswith("verdicts/")} for summary in summaries)
    assert len(before) == len(after) == 1
    assert before != after


@pytest.mark.usefixtures("one_picture")
def test_a_server_that_does_not_answer_leaves_an_offline_run(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    two_cells(tmp_path / "grid")
    monkeypatch.setattr(wandb_connection, "CONNECT", 1.0)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # discard: nobody listens
    run([str(tmp_path / "grid"), "--no-html", "--log-wandb"])
    (place,) = (tmp_path / "grid" / "wandb").glob("*run-*")
    assert place.name.startswith("offline-run-")
    assert capsys.readouterr().err == f"W&B  wandb sync {place}\n"
    (message,) = (r.getMessage() for r in caplog.records if r.name.startswith("sweep"))
    assert message.startswith("W&B: http://127.0.0.1:9 did not take the run")
    assert message.endswith("logging offline")
