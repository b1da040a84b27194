"""No command removes or overwrites what no run has made, nor one run's result by another's without being told to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import small
from filelock import FileLock

from sweep.calibration import store_command
from sweep.calibration.cache import FILES
from sweep.core.store import Store, discard
from sweep.runs import place
from sweep.runs.tables import Tables
from tests.harness import Run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def cell(files: Path) -> list[str]:
    return small.overrides(files)


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(root)): p.read_bytes()
        for p in root.rglob("*")
        if p.is_file() and p.suffix != ".lock" and p.name != ".lock"
    }


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A working directory with a user's things in it, among them what looks like a run's."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("years of work")
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb/notes").write_text("of another project")
    return tmp_path


@pytest.mark.parametrize("directory", [".", "thesis", "thesis/../"])
@pytest.mark.parametrize(
    "wrong", ["alpha=2", "method=maximum", "model.path=nowhere", "data.path=nowhere", "device=cuda:99", "nonsense=1"]
)
def test_a_refused_run_leaves_a_directory_as_it_was(
    sweep: Run, mine: Path, cell: list[str], directory: str, wrong: str
) -> None:
    before = contents(mine)
    done = sweep(*cell, f"hydra.run.dir={directory}", wrong)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert contents(mine) == before


def test_a_refused_run_removes_the_directory_that_it_made_unless_something_else_came_there(
    sweep: Run, tmp_path: Path, cell: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sweep(*cell, "hydra.run.dir=a/new", "model.path=nowhere").returncode == 2
    assert not (tmp_path / "a/new").exists()
    describe = place.runs.describe

    def noted(*arguments: Any) -> Any:
        Path("a/new/note").write_text("while it ran")
        return describe(*arguments)

    monkeypatch.setattr(place.runs, "describe", noted)
    assert sweep(*cell, "hydra.run.dir=a/new", "model.path=nowhere").returncode == 2
    assert list(contents(tmp_path / "a")) == ["new/note"]


def test_a_finished_run_is_replaced_by_another_only_if_that_is_asked_for(
    sweep: Run, tmp_path: Path, cell: list[str]
) -> None:
    assert sweep(*cell, "hydra.run.dir=x", "granularity=group", "method=minmax").returncode == 0
    before = contents(tmp_path / "x")
    done = sweep(*cell, "hydra.run.dir=x", "alpha=0.9")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "x holds a finished run (tiny minmax int8 group" in line
    assert "overwrite=true" in line
    assert contents(tmp_path / "x") == before  # Hydra's files and the log included
    assert sweep(*cell, "hydra.run.dir=x", "granularity=group", "method=minmax").returncode == 0  # the same again
    assert sweep(*cell, "hydra.run.dir=x", "alpha=0.9", "overwrite=true").returncode == 0
    assert json.loads((tmp_path / "x/run.json").read_text())["config"]["alpha"] == 0.9
    assert not (tmp_path / "x/grouping.parquet").exists()  # the other run's
    assert sweep(*cell, "overwrite=perhaps").returncode == 2


@pytest.mark.parametrize("name", ["run.json", "scales.parquet", ".hydra/config.yaml"])
def test_files_of_a_run_s_names_are_not_taken_for_a_run_s(
    sweep: Run, tmp_path: Path, cell: list[str], name: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    done = sweep(*cell, "hydra.run.dir=.")
    assert done.returncode == 2
    assert f"holds {name}, which is no run's" in done.stderr
    assert contents(tmp_path) == {name: b"{}"}


def test_two_runs_do_not_share_a_directory(sweep: Run, tmp_path: Path, cell: list[str]) -> None:
    (tmp_path / "x").mkdir()
    with FileLock(tmp_path / "x/.lock"):
        done = sweep(*cell, "hydra.run.dir=x")
    assert done.returncode == 2
    assert "another process is running in it" in done.stderr


@pytest.mark.parametrize("name", ["plan.json", "multirun.yaml", "0/run.json", "1/scales.parquet"])
def test_a_grid_overwrites_nothing_foreign(sweep: Run, tmp_path: Path, cell: list[str], name: str) -> None:
    (tmp_path / "mine" / name).parent.mkdir(parents=True)
    (tmp_path / "mine" / name).write_text("[]")
    done = sweep("-m", *cell, "alpha=0.9,0.99", "hydra.sweep.dir=mine")
    assert done.returncode == 2, done.stdout
    assert Path(name).name in done.stderr
    assert contents(tmp_path / "mine") == {name: b"[]"}


@pytest.mark.parametrize("sweeper", ["grid", "basic"])
def test_a_grid_keeps_the_cells_of_another(sweep: Run, tmp_path: Path, cell: list[str], sweeper: str) -> None:
    first = ("-m", *cell, "alpha=0.9,0.99", "hydra.sweep.dir=mine", f"hydra/sweeper={sweeper}")
    assert sweep(*first).returncode == 0
    before = contents(tmp_path / "mine")
    other = ("-m", *cell, "alpha=0.8,0.88", "hydra.sweep.dir=mine")
    for again in ("grid", "basic"):
        done = sweep(*other, f"hydra/sweeper={again}")
        assert done.returncode == 2
        assert "overwrite=true" in done.stderr
        assert contents(tmp_path / "mine") == before
    assert sweep(*other, f"hydra/sweeper={sweeper}", "overwrite=true").returncode == 0
    assert json.loads((tmp_path / "mine/1/run.json").read_text())["config"]["alpha"] == 0.88


def test_pruning_knows_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing goes for its ending alone, and no directory of the store's that holds something else."""
    key = "tiny-stdlib-4x32-0123456789abcdef"
    for name in ("home.work/essay", "photos.damaged-1/a.jpg", f".{key}.work/diary", f"{key}/letter.txt"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("mine")
    (tmp_path / "essay.work").write_text("mine")
    os.symlink(tmp_path / "home.work", tmp_path / f".{key[:-1]}0.work")
    before = contents(tmp_path)
    assert store_command.main(["--store", str(tmp_path), "prune", "tiny"]) == 0
    assert contents(tmp_path) == before
    assert "diary is not the store's" in capsys.readouterr().out
    (gone := tmp_path / f".{key[:-1]}1.work").mkdir()
    (gone / "fold-0001-ab.parquet").write_text("")
    assert gone in Store(tmp_path).leftovers()
    assert discard(gone, FILES) is None
    assert not gone.exists()


def test_every_table_of_a_run_is_known() -> None:
    names = [f"{field}.parquet" for field in Tables.__dataclass_fields__]
    assert set(place.TABLES) == {*names, "evaluation.parquet"}
