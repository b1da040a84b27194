"""A column of the summary as what a search optimizes: Hydra's Optuna sweeper itself, in an environment of its own.

SWEEP_OPTUNA_PYTHON names the interpreter of that environment; tools/optuna_env.sh builds it."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import small
import yaml

from sweep import __main__ as command
from sweep.config.values import tidy
from sweep.runs.tracking import view
from tests.harness import ROOT, Run, require

METRIC = str(yaml.safe_load((ROOT / "conf/wandb_sweep.yaml").read_text())["metric"]["name"])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def cell(files: Path) -> list[str]:
    return small.overrides(files)


def returned(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What jobs give back to Hydra from now on."""
    seen: list[Any] = []
    job = command.job

    @functools.wraps(job)
    def watched(composed: Any) -> Any:
        seen.append(found := job(composed))
        return found

    monkeypatch.setattr(command, "job", watched)
    return seen


def test_a_job_returns_the_column_that_wandb_s_searches_optimize(
    sweep: Run, tmp_path: Path, cell: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = returned(monkeypatch)
    assert sweep(*cell, "hydra.run.dir=alone", f"objective={METRIC}").returncode == 0
    assert (
        sweep("-m", *cell, "alpha=0.9,0.99", "hydra.sweep.dir=many", f"objective=[{METRIC},worst/layer]").returncode
        == 0
    )
    expected = [view.read(tmp_path / place).summary for place in ("alone", "many/0", "many/1")]
    assert seen[0] == expected[0][METRIC]
    assert seen[1:] == [[s[METRIC], s["worst/layer"]] for s in expected[1:]]
    assert "objective" not in json.loads((tmp_path / "alone/run.json").read_text())["config"]


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (
            "x_conv_out/sqnr",
            "objective=x_conv_out/sqnr: the cell's summary has no such number; the nearest are x_conv_out",
        ),
        ("worst/site", "objective=worst/site: the cell's summary has no such number"),  # a word
        ("evaluation/perplexity", "evaluate.perplexity=true"),
        ("7", "objective=7 is no column"),
        ("{a:b}", "objective={'a': 'b'} is no column"),
    ],
)
def test_what_is_no_number_of_the_summary_is_refused(
    sweep: Run, tmp_path: Path, cell: list[str], objective: str, said: str
) -> None:
    done = sweep(*cell, f"objective={objective}")
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error"))
    assert done.returncode == 2
    assert said in line
    assert "Traceback" not in done.stderr


def optuna(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    python = os.environ.get("SWEEP_OPTUNA_PYTHON", "")
    require(python, "SWEEP_OPTUNA_PYTHON is not set: build the environment with tools/optuna_env.sh")
    return subprocess.run(
        [python, "-m", "sweep", "-m", "hydra/sweeper=optuna", "hydra.sweeper.sampler.seed=1", *arguments],
        cwd=directory, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def test_optuna_maximizes_a_column(tmp_path: Path, cell: list[str]) -> None:
    search = ("alpha=interval(0.9,1)", "hydra.sweeper.n_trials=3", "hydra.sweeper.direction=maximize")
    done = optuna(tmp_path, *cell, *search, f"objective={METRIC}", "hydra.sweep.dir=search")
    assert done.returncode == 0, done.stderr
    results = yaml.safe_load((tmp_path / "search/optimization_results.yaml").read_text())
    values = {
        json.loads((p / "run.json").read_text())["config"]["alpha"]: view.read(p).summary[METRIC]
        for p in (tmp_path / "search").iterdir()
        if p.is_dir()
    }
    assert len(values) == 3
    assert results["best_value"] == max(values.values()) == values[tidy(results["best_params"]["alpha"])]
    again = optuna(tmp_path, *cell, *search, f"objective={METRIC}", "hydra.sweep.dir=search")
    assert again.returncode == 2
    assert "of another sweep" in again.stderr


def test_optuna_balances_two(tmp_path: Path, cell: list[str]) -> None:
    done = optuna(
        tmp_path, *cell, "format=choice(int8,int4)", "hydra.sweeper.n_trials=2", "hydra.sweep.dir=search",
        "hydra.sweeper.direction=[maximize,minimize]", f"objective=[{METRIC},x_conv_out/scale_mean]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(yaml.safe_load((tmp_path / "search/optimization_results.yaml").read_text())["solutions"]) >= 1


def test_optuna_without_a_column_starts_nothing(tmp_path: Path, cell: list[str]) -> None:
    done = optuna(tmp_path, *cell, "alpha=interval(0.9,1)")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "objective=x_conv_out/sqnr_db_mean" in line
    assert not (tmp_path / "runs").exists()


def test_optuna_that_is_not_installed(sweep: Run, tmp_path: Path) -> None:
    done = sweep("-m", "hydra/sweeper=optuna", "alpha=interval(0.9,1)")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: hydra/sweeper=optuna is not installed; pip install hydra-optuna-sweeper==1.3.0 'sqlalchemy<2'"
    ]
