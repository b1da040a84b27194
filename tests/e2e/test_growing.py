"""More samples of what is stored: only what is missing passes, and the bits are those of one pass."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small
from hydra import compose, initialize_config_dir

from sweep.calibration import store_command
from sweep.calibration.cache import STATISTICS
from sweep.config.config import Config, from_hydra
from sweep.config.hydra_errors import CONF
from sweep.core.errors import UsageError
from sweep.core.store import Store
from sweep.models.defaults import settled
from sweep.quantization.statistics import Statistics
from sweep.runs import cell as cells
from sweep.runs import passes
from tests.harness import Run, command

Make = Callable[..., Config]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def make(files: Path, tmp_path: Path) -> Make:
    def config(samples: int, *overrides: str, store: str = "store") -> Config:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            given = [*small.overrides(files), f"calibration.samples={samples}", f"store={tmp_path / store}"]
            return settled(from_hydra(compose("config", [*given, *overrides])))

    return config


def run(config: Config, directory: Path) -> dict[str, Any]:
    return cells.run(config, directory, "g").record.to_dict()


def written(record: dict[str, Any]) -> bytes:
    return (Path(record["calibration"]["path"]) / STATISTICS).read_bytes()


def base(record: dict[str, Any]) -> int | None:
    grown = record["calibration"].get("grown_from")
    return int(grown["samples"]) if grown else None


GROUPED = ("granularity=group", "method=mse", "grouping.head_groups=2", "grouping.dim_groups=2")


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=minmax",),
        ("method=percentile_ema", "calibration.text_quantiles=[0.99]", "dtype=bfloat16"),
        ("method=entropy", "calibration.ssm_state=true", "dtype=float16"),
        ("granularity=channel", "method=minmax", "model.stream=true"),
        GROUPED,
    ],
    ids=lambda given: given[0],
)
def test_every_table_is_that_of_one_pass(make: Make, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    run(make(8, *overrides), tmp_path / "few")
    grown = run(make(24, *overrides), tmp_path / "grown")
    direct = run(make(24, *overrides, store="other"), tmp_path / "direct")
    assert (base(grown), base(direct)) == (8, None)
    assert written(grown) == written(direct)
    for table in (tmp_path / "direct").glob("*.parquet"):
        assert (tmp_path / "grown" / table.name).read_bytes() == table.read_bytes()


@pytest.mark.slow
def test_a_sweep_over_samples_costs_one_pass_of_the_largest(
    sweep: Run, tmp_path: Path, files: Path, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = "calibration.samples=24,8,16"
    done = sweep("-m", *small.overrides(files), sizes, "hydra.sweep.dir=all", "store=all/store")
    assert done.returncode == 0, done.stderr
    plan = " ".join(done.stdout.replace("│", " ").split())
    assert "16 of 24 samples come from cell 2" in plan
    assert "8 of 16 samples come from cell 1" in plan
    records = [json.loads((tmp_path / "all" / str(n) / "run.json").read_text()) for n in range(3)]
    assert [base(record) for record in records] == [16, None, 8]
    kept = tmp_path / "all" / "store"
    for size in (8, 16):  # what a larger one grew from is there for whoever asks for it
        assert run(make(size, f"store={kept}"), tmp_path / f"read{size}")["calibration"]["cached"]
    assert store_command.main(["--store", str(kept), "list"]) == 0
    assert "grown from the 16 samples of" in " ".join(capsys.readouterr().out.replace("│", " ").split())
    smaller = [str(path.name) for path in Store(kept).entries() if "24x" not in path.name]
    assert store_command.main(["--store", str(kept), "prune", *smaller]) == 0
    assert store_command.main(["--store", str(kept), "verify"]) == 0
    again = run(make(24, f"store={kept}"), tmp_path / "again")  # what it grew from is gone, and nothing is lost
    assert again["calibration"]["cached"]
    plan = " ".join(sweep("-m", *small.overrides(files), "calibration.samples=24,32", "store=all/store",
                          "hydra.sweeper.dry_run=true").stdout.replace("│", " ").split())  # fmt: skip
    assert "24 of 32 samples are there" in plan
    plan = " ".join(sweep("-m", *small.overrides(files), "calibration.samples=8,16", "store=all/store",
                          "hydra.sweeper.dry_run=true").stdout.replace("│", " ").split())  # fmt: skip
    assert "24 samples are there, but are of no use: fold k of 4 keeps the sums of samples k, k + 4, …" in plan


@pytest.mark.slow
def test_two_jobs_that_grow_the_same_compute_it_once(sweep: Run, files: Path, make: Make, tmp_path: Path) -> None:
    run(make(8), tmp_path / "few")
    given = [*small.overrides(files), "calibration.samples=32", f"store={tmp_path / 'store'}"]
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(command, tmp_path, "sweep", *given, f"hydra.run.dir=job{i}") for i in range(2)]
        assert [job.result().returncode for job in jobs] == [0, 0]
    records = [json.loads((tmp_path / f"job{i}" / "run.json").read_text()) for i in range(2)]
    assert sorted(record["calibration"]["cached"] for record in records) == [False, True]
    assert written(records[0]) == written(run(make(32, store="other"), tmp_path / "direct"))


def test_shards_grow_too(make: Make, tmp_path: Path) -> None:
    run(make(8), tmp_path / "few")
    for shard in (0, 1):
        passes.shard(make(24, "calibration.shards=2", f"calibration.shard={shard}"))
    grown = run(make(24, "calibration.shards=2"), tmp_path / "grown")
    assert base(grown) == 8
    assert grown["timings"]["observe_s"] == 0  # all of it came from the shards
    assert written(grown) == written(run(make(24, store="other"), tmp_path / "direct"))


@pytest.mark.parametrize("pruned", [False, True])
def test_a_full_disk_and_a_lost_predecessor(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pruned: bool
) -> None:
    few = run(make(8), tmp_path / "few")
    before = written(few)

    def full(self: Statistics, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Statistics, "save", full)
        with pytest.raises(UsageError, match="No space left on device"):
            run(make(24), tmp_path / "failed")
    assert written(few) == before
    if pruned:
        shutil.rmtree(few["calibration"]["path"])
    grown = run(make(24), tmp_path / "grown")
    assert base(grown) == (None if pruned else 8)
    assert written(grown) == written(run(make(24, store="other"), tmp_path / "direct"))


def test_a_batch_that_would_be_cut_is_computed_anew(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(make(12), tmp_path / "few")  # three a fold, in batches of two
    grown = run(make(24), tmp_path / "grown")
    assert base(grown) is None
    said = capsys.readouterr().err
    assert "holds 12 of 24 samples but cannot be gone on from: its last batch in fold 0 would have been larger" in said
    assert written(grown) == written(run(replace(make(24), store=str(tmp_path / "other")), tmp_path / "direct"))
