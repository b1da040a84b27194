"""Where cells lie and what paths mean, wherever a job runs; two sweeps that want one directory."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import small

from sweep.grid import state
from sweep.runs import discovery as compared
from sweep.runs import listing
from tests.harness import Run

ALPHAS = "alpha=0.9,0.99"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def cell(files: Path) -> list[str]:
    return small.overrides(files)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("subdir", "places"),
    [
        ("a${alpha}", ["a0.9", "a0.99"]),
        ("${hydra.job.override_dirname}", ["alpha=0.9", "alpha=0.99"]),
        ("${method}/${hydra.job.num}", ["percentile/0", "percentile/1"]),
        ("${hydra:runtime.choices.model}-${alpha}", ["tiny-0.9", "tiny-0.99"]),
        ("cell ${hydra.job.num}", ["cell 0", "cell 1"]),
    ],
)
def test_a_cell_lies_where_its_configuration_says(
    sweep: Run, tmp_path: Path, cell: list[str], subdir: str, places: list[str]
) -> None:
    excluded = f"hydra.job.config.override_dirname.exclude_keys=[{','.join(o.split('=')[0] for o in cell)},data]"
    command = ("-m", *cell, ALPHAS, "hydra.sweep.dir=x", f"hydra.sweep.subdir='{subdir}'", excluded)
    done = sweep(*command)
    assert done.returncode == 0, done.stderr
    for place, alpha in zip(places, (0.9, 0.99), strict=True):
        assert json.loads((tmp_path / "x" / place / "run.json").read_text())["config"]["alpha"] == alpha
    (listed,) = listing.sweeps([tmp_path / "x"])
    assert listed.cells == {"finished": 2}
    assert len(compared.find(["x"])) == 2
    record = tmp_path / "x" / places[1] / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"status": "running"}))  # as kill -9 leaves it
    again = sweep(*command)
    assert again.returncode == 0, again.stderr
    assert "1 of 2 cells finished" in again.stdout


def test_two_cells_in_one_place_are_refused(sweep: Run, tmp_path: Path, cell: list[str]) -> None:
    done = sweep("-m", *cell, ALPHAS, "hydra.sweep.subdir='${method}'")
    assert done.returncode == 2
    assert "hydra.sweep.subdir puts cells 0 and 1 both into percentile" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("sweeper", ["grid", "basic"])
def test_relative_paths_are_the_launch_directory_s(
    sweep: Run, tmp_path: Path, files: Path, cell: list[str], sweeper: str
) -> None:
    for name in ("model", "text.txt"):
        (tmp_path / name).symlink_to(files / name)
    near = [word.replace(f"{files}/", "") for word in cell]
    done = sweep(
        "-m", *near, ALPHAS, "store=mine", "hydra.job.chdir=true", "hydra.sweep.dir=x", f"hydra/sweeper={sweeper}"
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "mine").glob("[!.]*"))) == 1
    cached = [json.loads((tmp_path / f"x/{n}/run.json").read_text())["calibration"]["cached"] for n in (0, 1)]
    assert cached == [False, True]
    assert sweep(*near, "store=mine", "hydra.job.chdir=true", "hydra.run.dir=y").returncode == 0
    assert not list((tmp_path / "y").glob("mine"))


def test_home_and_variables_in_paths(
    sweep: Run, tmp_path: Path, files: Path, cell: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FILES", str(files))
    words = [w for w in cell if not w.startswith(("model.path", "data.path"))]
    words += ["model.path='$FILES/model'", "data.path='$FILES/text.txt'", "store='~/store'"]
    assert sweep(*words, "hydra.run.dir='~/alone'").returncode == 0
    assert sweep("-m", *words, ALPHAS, "hydra.sweep.dir='$HOME/many'").returncode == 0
    assert {p.name for p in (tmp_path / "home").iterdir()} - {".cache"} == {"alone", "many", "store"}
    assert list(tmp_path.iterdir()) == [tmp_path / "home"]
    for word, said in (
        ("store='$NOWHERE/x'", "store=$NOWHERE/x: the environment has no variable NOWHERE"),
        ("data.path='~nobody-of-that-name/x'", "data.path=~nobody-of-that-name/x: there is no user"),
        ("hydra.run.dir='$NOWHERE'", "hydra.run.dir=$NOWHERE: the environment has no variable"),
    ):
        done = sweep(*words, word)
        assert done.returncode == 2
        assert said in done.stderr


def test_the_second_of_two_sweeps_into_one_new_directory_is_refused(
    sweep: Run, tmp_path: Path, cell: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have seen that the directory is new; the second comes to the lock when the first is done."""
    assert sweep("-m", *cell, ALPHAS, "hydra.sweep.dir=other").returncode == 0
    held = state.held

    def after_the_other(directory: Path, what: str) -> Any:
        (tmp_path / "x").rmdir()
        (tmp_path / "other").rename(tmp_path / "x")
        return held(directory, what)

    monkeypatch.setattr(state, "held", after_the_other)
    done = sweep("-m", *cell, "alpha=0.5,0.6", "hydra.sweep.dir=x")
    assert done.returncode == 2
    assert "x holds another sweep" in done.stderr
    assert json.loads((tmp_path / "x/0/run.json").read_text())["config"]["alpha"] == 0.9


def test_of_two_sweeps_at_once_one_wins(tmp_path: Path) -> None:
    from sweep.core.errors import UsageError
    from tests.unit.grid.test_plan import cell, planned

    outcomes: list[str] = []
    start = threading.Barrier(2)

    def claim(name: str) -> None:
        start.wait()
        try:
            with state.claimed(tmp_path / "x", True, planned(cell(name)), True):
                outcomes.append("mine")
        except UsageError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=claim, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes)[1] == "mine"
    assert "another" in sorted(outcomes)[0]


@pytest.mark.slow
def test_a_plan_counts_what_will_be_computed(sweep: Run, tmp_path: Path, cell: list[str]) -> None:
    grid_ = ("-m", *cell, "granularity=tensor,group", ALPHAS)
    done = sweep(*grid_, "hydra.sweeper.dry_run=true")
    assert "plan: 4 cells, 1 calibration, 1 second pass\n" in done.stdout
    done = sweep(*grid_, "hydra.sweep.dir=x")
    how = [line.rsplit("  ", 2)[1] for line in done.stdout.splitlines() if " tiny " in line and line.endswith(" s")]
    assert sorted(how) == [
        "calibrated", "read from the store", "read from the store", "read from the store, second pass calibrated",
    ]  # fmt: skip
    assert "plan: 1 cell, 1 calibration\n" in sweep("-m", *cell, "hydra.sweeper.dry_run=true").stdout
    done = sweep(*cell, "granularity=group", "store=new")
    assert "calibrated in two passes" in done.stdout


def test_shards_are_no_cells(sweep: Run, tmp_path: Path, cell: list[str]) -> None:
    done = sweep("-m", *cell, ALPHAS, "calibration.shards=2", "hydra.sweep.dir=runs/shards")
    assert done.returncode == 0, done.stderr
    assert len(compared.find(["runs"])) == len(compared.find(["runs/shards"])) == 2
    (tmp_path / "runs/shards/.shards").rename(tmp_path / "runs/shards/shards")  # where earlier versions kept them
    assert len(compared.find(["runs"])) == 2
    (listed,) = listing.sweeps([tmp_path / "runs"])
    assert listed.cells == {"finished": 2}


def test_random_weights_of_the_shipped_model_s_geometry(sweep: Run) -> None:
    done = sweep("-m", "model=tiny,130m", "model.weights=random", "hydra.sweeper.dry_run=true")
    assert done.returncode == 0, done.stderr
    assert "plan: 2 cells, 2 calibrations\n" in done.stdout
    assert "tiny-random" in done.stdout
