"""Grids on a real Slurm: arrays, preemption, requeues, cancelled jobs, two grids at once."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import slurm
import small

from tests.harness import ROOT, require

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]
SLOW = ("calibration.samples=400", "calibration.batch_size=1", "calibration.checkpoint=0.2")
SLOWER = ("calibration.samples=4800", *SLOW[1:])  # so that a job is still at it when Slurm kills it, KillWait later


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    require(importlib.util.find_spec("submitit"), "needs pip install hydra-submitit-launcher")
    require(not slurm.missing(), slurm.missing())
    with slurm.running() as env:
        yield {**env, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = small.files(tmp_path_factory.mktemp("files"))
    small.text(root / "text.txt", 320_000)
    return root


class Grid:
    """A grid under way on the cluster."""

    def __init__(self, cluster: dict[str, str], directory: Path, files: Path, *arguments: str, name: str = "grid"):
        self.env, self.directory = cluster, directory / "runs" / name
        command = [sys.executable, "-m", "sweep", "-m", *small.overrides(files), *arguments]
        command += ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", f"hydra.sweep.dir=runs/{name}"]
        self.process = subprocess.Popen(
            command, cwd=directory, env=cluster, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def slurm(self, *command: str) -> str:
        return subprocess.run(command, env=self.env, capture_output=True, text=True).stdout

    def job(self, state: str = "R") -> str:
        """The id of the first job in a state."""
        return self.until(lambda: self.slurm("squeue", "-h", "-t", state, "-o", "%i").split())[0]  # type: ignore[no-any-return]

    def calibrating(self) -> list[str]:
        """Returns when a calibration is under way and has a checkpoint."""
        store = self.directory.parent / "calibrations"
        return self.until(lambda: [p.name for p in store.glob(".*.work/running-*")])  # type: ignore[no-any-return]

    def until(self, condition: Any, seconds: float = 120) -> Any:
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end, self.slurm("squeue")
            time.sleep(0.1)
        return found

    def finish(self) -> tuple[int, str, str]:
        """Wait for the end; jobs that were queued again would wait for two minutes, so start them now."""
        while self.process.poll() is None:
            for job in self.slurm("squeue", "-h", "-t", "PD", "-o", "%i").split():
                self.slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
            time.sleep(0.5)
        out, err = self.process.communicate()
        return self.process.returncode, out, err

    def records(self) -> dict[int, dict[str, Any]]:
        return {int(p.parent.name): json.loads(p.read_text()) for p in self.directory.glob("*/run.json")}

    def logs(self) -> str:
        return "\n".join(p.read_text() for p in self.directory.glob(".submitit/*/*log.*"))


def statistics(store: Path) -> bytes:
    (entry,) = (p for p in store.iterdir() if not p.name.startswith("."))
    return (entry / "statistics.parquet").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(files: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The slow calibration, computed without a cluster or a stop."""
    root = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, "-m", "sweep", *small.overrides(files), *SLOW]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=root, env=env, check=True, capture_output=True)
    return statistics(root / "runs/calibrations")


def test_a_grid_of_four_cells(cluster: dict[str, str], files: Path, tmp_path: Path) -> None:
    grid = Grid(cluster, tmp_path, files, "alpha=0.9,0.99,0.999,1.0", "calibration.shards=2")
    code, out, err = grid.finish()
    assert code == 0, err + out + grid.logs()
    found = grid.records()
    assert sorted(found) == list(range(4))
    assert {r["status"] for r in found.values()} == {"finished"}
    assert [found[n]["calibration"]["cached"] for n in range(4)] == [False] + 3 * [True]
    assert found[0]["timings"]["observe_s"] == 0  # two shards did it
    assert f"python -m sweep.compare {grid.directory.relative_to(tmp_path)}" in out


@pytest.fixture
def answering_late(cluster: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The cluster with a scontrol that is still there when Slurm ends the processes of the job it requeued."""
    scontrol = tmp_path / "bin/scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\n{shutil.which("scontrol", path=cluster["PATH"])} "$@" && sleep 1\n')
    scontrol.chmod(0o755)
    return {**cluster, "PATH": f"{scontrol.parent}:{cluster['PATH']}"}


def test_preemption_and_requeue(
    answering_late: dict[str, str], files: Path, tmp_path: Path, undisturbed: bytes
) -> None:
    """USR2 as Slurm's preemption and time limit send it, then a requeue of which the job is not told."""
    grid = Grid(answering_late, tmp_path, files, *SLOW, "alpha=0.99")
    job = grid.job()
    before = grid.calibrating()
    grid.slurm("scancel", "--signal=USR2", job)
    grid.until(lambda: "Caught signal SIGUSR2" in grid.logs())
    grid.job("PD")
    assert json.loads((grid.directory / "0/run.json").read_text())["status"] == "failed"
    grid.slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
    grid.until(lambda: grid.job() and set(grid.calibrating()) - set(before))
    grid.slurm("scontrol", "requeue", job)
    code, out, err = grid.finish()
    assert code == 0, err + out + grid.logs()
    assert "Restarts=2" in grid.slurm("scontrol", "show", "job", job)
    assert statistics(tmp_path / "runs/calibrations") == undisturbed
    record = grid.records()[0]
    assert record["status"] == "finished"
    assert record["counts"]["tokens"] == 400 * small.SEQLEN


def test_a_cancelled_job_fails_its_own_followers_only(cluster: dict[str, str], files: Path, tmp_path: Path) -> None:
    """Two calibrations; the leader of the first is cancelled, the second one's goes on to its end."""
    grid = Grid(cluster, tmp_path, files, *SLOWER, "calibration.seed=1,2", "alpha=0.99,0.999")
    grid.until(lambda: len(grid.slurm("squeue", "-h", "-t", "R", "-o", "%i").split()) == 2)
    grid.calibrating()
    grid.slurm("scancel", grid.job())
    code, out, err = grid.finish()
    found = grid.records()
    assert code == 1, err + out
    states = [found[n]["status"] for n in range(4)]
    assert states in (["failed"] * 2 + ["finished"] * 2, ["finished"] * 2 + ["failed"] * 2)
    (line,) = (line for line in err.splitlines() if line.startswith("error"))
    assert "ended without a result" in line
    assert "(1 cell that needs its calibration failed with it)" in line


def test_two_grids_at_once_share_one_calibration(
    cluster: dict[str, str], files: Path, tmp_path: Path, undisturbed: bytes
) -> None:
    grids = [Grid(cluster, tmp_path, files, *SLOW, f"alpha={a}", name=f"grid{a}") for a in ("0.99", "0.999")]
    for grid in grids:
        code, out, err = grid.finish()
        assert code == 0, err + out + grid.logs()
    cached = sorted(grid.records()[0]["calibration"]["cached"] for grid in grids)
    assert cached == [False, True]
    assert statistics(tmp_path / "runs/calibrations") == undisturbed
