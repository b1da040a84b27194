"""A grid from its command line to its directories, on this machine."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import small

from sweep.config import dtype
from sweep.core.fresh import fresh
from sweep.grid import state
from tests.harness import Run, command

ALPHAS = "alpha=0.99,0.999"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def cell(files: Path) -> list[str]:
    return small.overrides(files)


def sweeps(root: Path) -> list[Path]:
    return sorted(p.parent for p in (root / "runs").glob("*/plan.json"))


def records(sweep: Path) -> dict[int, dict[str, Any]]:
    return {int(p.parent.name): json.loads(p.read_text()) for p in sweep.glob("*/run.json")}


def test_a_grid_costs_one_forward_pass(sweep: Run, tmp_path: Path, cell: list[str]) -> None:
    done = sweep("-m", *cell, "method=minmax,percentile", ALPHAS)
    assert done.returncode == 0, done.stderr
    assert "plan: 3 cells, 1 calibration\n" in done.stdout
    assert "minmax ignores alpha: 2 cells are 1" in done.stdout
    (directory,) = sweeps(tmp_path)
    found = records(directory)
    assert sorted(found) == [0, 1, 2]
    assert {r["status"] for r in found.values()} == {"finished"}
    assert [found[n]["calibration"]["cached"] for n in range(3)] == [False, True, True]
    assert {r["sweep"] for r in found.values()} == {directory.name}
    assert f"python -m sweep.compare runs/{directory.name}" in done.stdout
    tables = [pq.read_table(directory / str(n) / "scales.parquet") for n in range(3)]
    assert [set(t["alpha"].to_pylist()) for t in tables] == [{None}, {0.99}, {0.999}]
    assert len(list((tmp_path / "runs/calibrations").glob("[!.]*"))) == 1
    assert not list((tmp_path / "runs/calibrations").glob(".*.work"))


def test_each_cell_is_what_it_is_alone(sweep: Run, tmp_path: Path, cell: list[str]) -> None:
    assert sweep("-m", *cell, ALPHAS).returncode == 0
    assert sweep(*cell, "alpha=0.999", "store=elsewhere", "hydra.run.dir=runs/alone").returncode == 0
    (directory,) = sweeps(tmp_path)
    alone, member = (pq.read_table(d / "scales.parquet") for d in (tmp_path / "runs/alone", directory / "1"))
    assert alone.equals(member)


def test_auto_means_what_it_meant_to_the_planner(
    sweep: Run, tmp_path: Path, cell: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grid may run on another machine than the one that planned it."""
    claimed = state.claimed

    def elsewhere(*arguments: Any) -> Any:
        monkeypatch.setattr(dtype, "dtype", lambda device: "float32")
        return claimed(*arguments)

    monkeypatch.setattr(dtype, "dtype", lambda device: "bfloat16")
    monkeypatch.setattr(state, "claimed", elsewhere)
    done = sweep("-m", *(word for word in cell if not word.startswith("dtype=")), ALPHAS, "dtype=auto")
    assert done.returncode == 0, done.stderr
    (directory,) = sweeps(tmp_path)
    assert [r["config"]["dtype"] for r in records(directory).values()] == ["bfloat16"] * 2


def test_runs_that_begin_in_the_same_second_have_directories_of_their_own(tmp_path: Path) -> None:
    wanted = tmp_path / "2026-01-01_00-00-00"
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: fresh(wanted), range(8)))
    assert sorted(found) == [wanted, *(tmp_path / f"{wanted.name}-{n}" for n in range(2, 9))]
    assert all(path.is_dir() for path in found)


def test_a_dry_run_starts_nothing(sweep: Run, tmp_path: Path, cell: list[str]) -> None:
    done = sweep("-m", *cell, ALPHAS, "hydra.sweeper.dry_run=true")
    assert done.returncode == 0
    assert "to compute in cell 0" in done.stdout
    assert "percentile a=0.999 int8" in done.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("bad", ["alpha=0.99,2", "calibration.samples=4,999999", "method=minmax,maximum"])
def test_a_bad_cell_starts_nothing(sweep: Run, tmp_path: Path, cell: list[str], bad: str) -> None:
    done = sweep("-m", *cell, bad)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith("error: cell 1 (")
    assert bad.split("=")[0] + "=" + bad.split(",")[1] in line
    assert not (tmp_path / "runs").exists()


def test_a_failed_leader_fails_its_followers_only(sweep: Run, tmp_path: Path, cell: list[str], files: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(files / "model", broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    done = sweep("-m", *cell[1:], f"model.path={broken},{files / 'model'}", ALPHAS)
    assert done.returncode == 2, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error"))
    assert line.startswith("error: cell 0 (tiny percentile a=0.99")
    assert "(1 cell that needs its calibration failed with it)" in line
    assert "Traceback" not in done.stderr + done.stdout
    found = records(sweeps(tmp_path)[0])
    assert [found[n]["status"] for n in range(4)] == ["failed", "failed", "finished", "finished"]
    assert "its calibration failed in cell 0" in found[1]["error"]


def test_an_interrupted_sweep_goes_on(sweep: Run, tmp_path: Path, cell: list[str]) -> None:
    state = ("-m", *cell, "alpha=0.9,0.99,0.999")
    assert sweep(*state).returncode == 0
    (directory,) = sweeps(tmp_path)
    record = json.loads((directory / "1/run.json").read_text())
    before = {n: (directory / f"{n}/run.json").read_text() for n in (0, 2)}
    (directory / "1/run.json").write_text(json.dumps({**record, "status": "running"}))  # as kill -9 leaves it
    done = sweep(*state)
    assert done.returncode == 0, done.stderr
    assert "2 of 3 cells finished" in done.stdout
    assert sweeps(tmp_path) == [directory]
    assert {n: (directory / f"{n}/run.json").read_text() for n in (0, 2)} == before
    assert records(directory)[1]["status"] == "finished"
    assert sweep(*state).returncode == 0  # nothing left: a new sweep
    assert len(sweeps(tmp_path)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("fisher", [0, 9])
def test_shards_merge_to_the_same_bits(sweep: Run, tmp_path: Path, cell: list[str], fisher: int) -> None:
    cell = [*cell, ALPHAS, f"calibration.fisher={fisher}"]
    assert sweep("-m", *cell, "calibration.shards=3", "hydra.sweep.dir=runs/sharded").returncode == 0
    assert (tmp_path / "runs/sharded/.shards/0-2").is_dir()
    assert sweep("-m", *cell, "store=other", "hydra.sweep.dir=runs/whole").returncode == 0
    (sharded,), (whole,) = (
        [e / "statistics.parquet" for e in (tmp_path / s).iterdir() if not e.name.startswith(".")]
        for s in ("runs/calibrations", "other")
    )
    assert sharded.read_bytes() == whole.read_bytes()
    record = records(tmp_path / "runs/sharded")[0]
    assert record["timings"]["observe_s"] == 0  # the leader only merged


def test_a_batch_size_is_kept_to(sweep: Run, tmp_path: Path, cell: list[str]) -> None:
    done = sweep("-m", *cell, "alpha=0.9,0.99,0.999,0.9999", "hydra.sweeper.max_batch_size=1")
    assert done.returncode == 0, done.stderr
    assert sorted(records(sweeps(tmp_path)[0])) == [0, 1, 2, 3]


def test_another_sweeper_needs_no_plan(sweep: Run, tmp_path: Path, cell: list[str]) -> None:
    """The store and its lock alone see to it that a calibration is computed once."""
    done = sweep("-m", *cell, ALPHAS, "hydra/sweeper=basic", "hydra.sweep.dir=runs/basic")
    assert done.returncode == 0, done.stderr
    assert [r["calibration"]["cached"] for _, r in sorted(records(tmp_path / "runs/basic").items())] == [False, True]


@pytest.mark.slow
def test_the_real_command(tmp_path: Path, cell: list[str]) -> None:
    done = command(tmp_path, "sweep", "-m", *cell, ALPHAS)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "percentile" in line and " s" in line[-3:]]
    assert len(lines) == 2, done.stdout
    assert "calibrated" in lines[0]
    assert "read from the store" in lines[1]
    bad = command(tmp_path, "sweep", "-m", *cell, "alpha=0.5,3")
    assert bad.returncode == 2
    assert len(bad.stderr.splitlines()) == 1


def test_the_prepared_grid_needs_no_flag(sweep: Run, cell: list[str]) -> None:
    done = sweep(*cell, "experiment=alpha_grid", "hydra.sweeper.dry_run=true")
    assert done.returncode == 0, done.stderr
    assert "plan: 6 cells, 1 calibration\n" in done.stdout
    assert "minmax ignores alpha: 5 cells are 1" in done.stdout
