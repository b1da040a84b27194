"""Files of conf/experiment: all of their values count, and several are the union of their sweeps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sweep import __main__ as command
from sweep.config.config import Config
from sweep.grid import job
from tests.harness import ROOT, Run

FILES = {
    "mine": """# @package _global_
method: minmax
format: int4
calibration: {samples: 8, seqlen: 64}
""",
    "several": """# @package _global_
granularity: group
hydra:
  mode: MULTIRUN
  sweeper:
    params: {alpha: "0.9,0.99", method: "percentile,mse"}
""",
    "model": """# @package _global_
defaults:
  - override /data: text
data: {path: somewhere}
hydra:
  run: {dir: elsewhere/run}
""",
    "own_launcher": """# @package _global_
defaults:
  - override /hydra/launcher: joblib
""",
}


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    for name, text in FILES.items():
        (tmp_path / f"conf/experiment/{name}.yaml").write_text(text)
    monkeypatch.setattr(command, "CONF", tmp_path / "conf")
    return tmp_path


def planned(sweep: Run, *arguments: str) -> str:
    done = sweep("-m", *arguments, "hydra.sweeper.dry_run=true")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_values_of_an_experiment_win_over_the_defaults(sweep: Run, conf: Path) -> None:
    text = planned(sweep, "experiment=mine")
    assert "tiny minmax int4 tensor" in text
    assert "tiny-stdlib-8x64-" in text


def test_the_command_line_wins_over_an_experiment(sweep: Run, conf: Path) -> None:
    text = planned(sweep, "experiment=mine", "format=int8,fp8_e4m3", "calibration.samples=4")
    assert "plan: 2 cells, 1 calibration\n" in text
    assert "tiny minmax fp8_e4m3 tensor" in text
    assert "tiny-stdlib-4x64-" in text


def test_a_single_run_of_an_experiment(sweep: Run, conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Config, Path]] = []
    monkeypatch.setattr(job, "alone", lambda config, directory: seen.append((config, directory)))
    assert sweep("experiment=mine").returncode == 0
    assert sweep("experiment=model").returncode == 0
    (mine, _), (model, directory) = seen
    assert (mine.method, mine.format, mine.calibration.samples) == ("minmax", "int4", 8)
    assert (model.data.name, model.data.path) == ("text", "somewhere")
    assert directory == conf / "elsewhere/run"


@pytest.mark.parametrize("words", ["mine,several", "choice(mine,several)", "several,mine"])
def test_several_experiments_are_their_union(sweep: Run, conf: Path, words: str) -> None:
    text = planned(sweep, f"experiment={words}", "calibration.samples=4")
    assert "plan: 4 cells, 2 calibrations, 1 second pass\n" in text
    for label in ("minmax int4 tensor", *(f"percentile a={a} int8 group" for a in (0.9, 0.99)), "mse int8 group"):
        assert label in text


def test_a_choice_of_one_is_that_one(sweep: Run, conf: Path) -> None:
    assert planned(sweep, "experiment=choice(several)") == planned(sweep, "experiment=several")
    assert "tiny percentile a=0.9995 int8" in planned(sweep, "experiment=mine,null")


def test_what_a_union_cannot_have_is_refused(sweep: Run, conf: Path) -> None:
    done = sweep("-m", "experiment=mine,own_launcher", "hydra.sweeper.dry_run=true")
    assert done.returncode == 2
    assert "experiment=own_launcher has a launcher of its own" in done.stderr
    done = sweep("-m", "experiment=mine,nonsense", "hydra.sweeper.dry_run=true")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "nonsense" in done.stderr


def test_a_union_runs(sweep: Run, conf: Path) -> None:
    small = ("calibration.samples=4", "calibration.seqlen=32", "calibration.folds=2")
    done = sweep("-m", "experiment=mine,several", *small, "hydra.sweep.dir=both", "granularity=tensor")
    assert done.returncode == 0, done.stderr
    configs = [json.loads(p.read_text())["config"] for p in sorted((conf / "both").glob("*/run.json"))]
    assert [(c["method"], c["format"]) for c in configs] == [
        ("minmax", "int4"), ("percentile", "int8"), ("mse", "int8"), ("percentile", "int8"),
    ]  # fmt: skip
