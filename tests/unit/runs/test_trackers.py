"""A tracker from outside: one class, in a package that names it as an entry point."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cells import CONFIG, finished

from sweep.config.config import Config
from sweep.config.knobs import Wandb
from sweep.core.errors import UsageError
from sweep.core.progress import GRADIENTS
from sweep.runs.tracking import TrackedRun, trackers, view
from sweep.runs.tracking.tracker import NullTracker
from tests.harness import ROOT

NOTEBOOK = """
import json, pathlib
from sweep.runs.tracking import view

class Notebook:
    hint = "open notebook.json"

    def __init__(self, run):
        self.page = run.directory.parent / "notebook.json"
        self.record = {"page": self.page.name, "method": run.config.method}
        self.said = [run.name]

    def progress(self, done, total):
        self.said.append(f"{done} of {total}")

    def results(self, directory):
        self.said.append(sorted(view.read(directory).layers))

    def finish(self, failed=False):
        self.page.write_text(json.dumps(self.said + [failed]))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder for sys.path with such a package installed in it."""
    place = tmp_path / "site"
    metadata = place / "notebook-1.0.dist-info"
    metadata.mkdir(parents=True)
    (place / "notebook.py").write_text(NOTEBOOK)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: notebook\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[sweep.trackers]\nnotebook = notebook:Notebook\n")
    return place


@pytest.mark.slow
def test_a_cell_is_followed_by_a_tracker_of_another_package(package: Path, tmp_path: Path) -> None:
    cell = [
        "model=tiny", "data=stdlib", "calibration.samples=8", "calibration.seqlen=32", "calibration.folds=2",
        "calibration.batch_size=4", "wandb.mode=disabled", f"store={tmp_path / 'store'}",
        f"hydra.run.dir={tmp_path / 'cell'}",
    ]  # fmt: skip
    env = {"PYTHONPATH": f"{ROOT}:{package}", "PATH": "/usr/bin:/bin", "COLUMNS": "200", "HOME": str(tmp_path)}
    env |= {"OMP_NUM_THREADS": "1"}  # as the tests have it
    command = [sys.executable, "-m", "sweep", *cell]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "cell" / "run.json").read_text())
    name, *progress, layers, failed = json.loads((tmp_path / "notebook.json").read_text())
    assert name == record["name"]
    assert progress[-1] == "8 of 8"
    assert layers == sorted(view.read(tmp_path / "cell").layers)
    assert failed is False
    assert record["trackers"] == {"notebook": {"page": "notebook.json", "method": "percentile"}}
    assert record["wandb"] is None
    assert "open notebook.json" in done.stdout


class Broken:
    """record and hint are there, every call is an error."""

    def __init__(self, run: TrackedRun) -> None:
        self.record, self.hint = {"id": 7}, None
        self.calls: list[str] = []

    def progress(self, done: int, total: int) -> None:
        self.calls.append("progress")
        raise ConnectionResetError("gone\nsecond line")

    def results(self, directory: Path) -> None:
        self.calls.append("results")

    def finish(self, failed: bool = False) -> None:
        self.calls.append("finish")
        raise RuntimeError("still gone")


@pytest.fixture
def run(tmp_path: Path) -> TrackedRun:
    config = Config(CONFIG.model, CONFIG.data, wandb=Wandb(mode="disabled"))
    return TrackedRun(finished(tmp_path / "0"), "name", "group", config)


def test_an_error_of_a_tracker_costs_a_warning_and_no_cell(
    run: TrackedRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken(run)
    monkeypatch.setattr(trackers, "known", lambda: {"broken": lambda run: broken, "none": lambda run: None})
    started = trackers.start(run)
    assert (started.records, started.hints) == ({"broken": {"id": 7}}, [])
    started.progress(0, 1, GRADIENTS)  # it has no method for these
    started.progress(1, 2)
    started.progress(2, 2)
    started.results(run.directory)
    started.finish()
    assert broken.calls == ["progress", "finish"]
    assert [r.message for r in caplog.records] == [
        "tracker broken: ConnectionResetError: gone; the cell goes on",
        "tracker broken: RuntimeError: still gone; the cell goes on",
    ]


def test_a_tracker_that_counts_gradients_is_told_of_them(run: TrackedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int, int]] = []

    class Counting(NullTracker):
        def progress(self, done: int, total: int) -> None:
            seen.append(("samples", done, total))

        def differentiated(self, done: int, total: int) -> None:
            seen.append(("gradients", done, total))

    monkeypatch.setattr(trackers, "known", lambda: {"counting": lambda run: Counting()})
    started = trackers.start(run)
    started.progress(1, 8)
    started.progress(1, 4, GRADIENTS)
    assert seen == [("samples", 1, 8), ("gradients", 1, 4)]


def test_a_tracker_that_cannot_start_is_left_out_unless_it_was_asked_for_what_cannot_be(
    run: TrackedRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def raising(error: Exception) -> dict[str, Any]:
        def start(run: TrackedRun) -> None:
            raise error

        return {"odd": start}

    monkeypatch.setattr(trackers, "known", lambda: raising(ImportError("No module named 'odd'")))
    assert trackers.start(run).records == {}
    assert [r.message for r in caplog.records] == ["tracker odd: ImportError: No module named 'odd'; not tracked"]
    monkeypatch.setattr(trackers, "known", lambda: raising(UsageError("odd.mode=online: no key")))
    with pytest.raises(UsageError, match="no key"):
        trackers.start(run)
