"""The sweep file of the repository: its command, expanded as an agent expands it, is a cell that runs."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cells import record
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from wandb_runs import assert_tells_all, inspect, offline_runs

from tests.harness import ROOT

SWEEP: dict[str, Any] = yaml.safe_load((ROOT / "conf" / "wandb_sweep.yaml").read_text())


def cells() -> list[dict[str, Any]]:
    """The points of the grid, as W&B's server hands them out."""
    choices = {name: p.get("values", [p.get("value")]) for name, p in SWEEP["parameters"].items()}
    return [dict(zip(choices, point, strict=True)) for point in itertools.product(*choices.values())]


def expand(cell: dict[str, Any]) -> list[str]:
    """What `wandb agent` starts for a cell: wandb's own functions, and the loop of `Agent._command_run`."""
    words = create_sweep_command_args({"args": {name: {"value": value} for name, value in cell.items()}})
    words |= {"interpreter": ["python"], "program": [SWEEP["program"]], "env": ["/usr/bin/env"]}
    command: list[str] = []
    for part in create_sweep_command(SWEEP["command"]):
        command += words[part[2:-1]] if part.startswith("${") else [part]
    return command


def run(command: list[str], where: Path, **env: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=120)


def test_every_cell_of_the_grid_composes(tmp_path: Path) -> None:
    assert expand(cells()[0])[:4] == ["/usr/bin/env", "python", "-m", "sweep"]
    assert (ROOT / SWEEP["program"]).is_file()
    assert len(cells()) == 5
    from hydra import compose, initialize_config_dir

    from sweep.config.config import from_hydra

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        configs = [from_hydra(compose("config", expand(cell)[4:])) for cell in cells()]
    assert [config.alpha for config in configs] == SWEEP["parameters"]["alpha"]["values"]


@pytest.mark.slow
def test_the_expanded_command_runs_and_reports_the_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"calibration.samples": 4, "calibration.folds": 2, "calibration.seqlen": 32}
    ours = {"hydra.run.dir": "runs/cell", "wandb.tags": ["a"]}
    for name in {name for name in os.environ if name.startswith("WANDB_")} - {"WANDB_BASE_URL"}:
        monkeypatch.delenv(name)
    agent = {
        "WANDB_SWEEP_ID": "sweep0",
        "WANDB_RUN_ID": "handed0ut",
        "WANDB_PROJECT": "theirs",
        "WANDB_MODE": "offline",
    }
    done = run(expand(cells()[0] | small | ours), tmp_path, HOME=str(tmp_path), **agent)
    assert done.returncode == 0, done.stderr
    cell = tmp_path / "runs" / "cell"
    (place,) = offline_runs(cell)
    log = inspect(place)
    assert_tells_all(log, cell)
    assert SWEEP["metric"]["name"] in log.summary
    assert log.config["alpha"] == record(cell)["config"]["alpha"] == 0.99
    assert record(cell)["wandb"]["id"] == log.run["run_id"] == "handed0ut"  # the agent's run, not one of our own
    assert log.run["project"] == "theirs"
    assert log.run["sweep_id"] == "sweep0"
    assert log.run["run_group"] == "cell"
    assert log.run["tags"] == ["a"]
    assert f"wandb sync {place}" in done.stdout
    assert "wandb:" not in done.stderr
