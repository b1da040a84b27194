"""Calibrating until the scales are known: what it ends with is the calibration of so many samples, in every respect."""

from __future__ import annotations

import errno
import json
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import small
from hydra import compose, initialize_config_dir

from sweep.calibration import store_command
from sweep.calibration.cache import STATISTICS, Store
from sweep.config.config import Config, from_hydra
from sweep.config.hydra_errors import CONF
from sweep.core.errors import UsageError
from sweep.core.files import draft
from sweep.models.defaults import settled
from sweep.quantization.statistics import Statistics
from sweep.runs import cell as cells
from sweep.runs import passes, reproduce, until
from sweep.runs import record as runs
from sweep.runs.status import RunStatus
from tests.harness import Run, command

MOST = 128  # 32, 64, 128: folds x batch_size = 16, four samples a fold at first
UNTIL = (f"calibration.samples={MOST}", "calibration.folds=8", "calibration.tolerance=5%", "calibration.seqlen=16")
Make = Callable[..., Config]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = small.files(tmp_path_factory.mktemp("files"))
    small.text(root / "text.txt", 6000)
    return root


@pytest.fixture
def make(files: Path, tmp_path: Path) -> Make:
    def config(*overrides: str, store: str = "store") -> Config:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            given = [*small.overrides(files), *UNTIL, f"store={tmp_path / store}"]
            return settled(from_hydra(compose("config", [*given, *overrides])))

    return config


def run(config: Config, directory: Path, asked: Any = ()) -> dict[str, Any]:
    return cells.run(config, directory, "g", asked=asked).record.to_dict()


def written(record: dict[str, Any]) -> bytes:
    return (Path(record["calibration"]["path"]) / STATISTICS).read_bytes()


def looked(record: dict[str, Any]) -> list[int]:
    return [look["samples"] for look in record["calibration"]["until"]["looks"]]


def errors(directory: Path) -> np.ndarray[Any, Any]:
    table = pq.read_table(directory / "scales.parquet").to_pandas()
    table = table[~table.site.str.contains("_pre")]
    return np.asarray(table.scale_se / table.scale)


GROUPED = ("granularity=group", "method=mse", "grouping.head_groups=2", "grouping.dim_groups=2")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("method=percentile", "alpha=0.99"),
        ("method=percentile_ema", "alpha=0.99", "dtype=bfloat16", "calibration.tolerance=10%"),
        ("method=loss", "calibration.fisher=48", "calibration.tolerance=20%"),
        ("method=loss", "calibration.fisher=48", "model.stream=true", "calibration.tolerance=20%"),
        ("granularity=channel", "method=minmax", "calibration.tolerance=20%"),
        (*GROUPED, "calibration.tolerance=10%"),
    ],
    ids=lambda given: " ".join(given[:2]),
)
def test_it_ends_with_the_calibration_of_so_many_samples(
    make: Make, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    sure = run(make(*overrides), tmp_path / "sure")
    samples = sure["tokens"]["samples"]
    assert looked(sure) == [n for n in (32, 64, 128) if n <= samples]
    fixed = make(*overrides, "calibration.tolerance=null", f"calibration.samples={samples}", store="other")
    direct = run(fixed, tmp_path / "direct")
    assert sure["calibration"]["key"] == direct["calibration"]["key"]
    assert written(sure) == written(direct)
    for table in (tmp_path / "direct").glob("*.parquet"):
        assert (tmp_path / "sure" / table.name).read_bytes() == table.read_bytes()
    goal = sure["calibration"]["until"]
    if goal["scales_known"]:
        assert (errors(tmp_path / "sure") <= goal["tolerance"]).mean() >= goal["share"]
    else:
        assert samples == MOST


def test_it_stops_early_and_says_what_was_reached(make: Make, tmp_path: Path, capsys: Any) -> None:
    easy = run(make("method=percentile", "alpha=0.5"), tmp_path / "easy")
    assert easy["tokens"]["samples"] < MOST
    assert easy["calibration"]["until"]["scales_known"]
    hard = run(make("method=minmax", "calibration.tolerance=0.0001"), tmp_path / "hard")
    assert hard["tokens"]["samples"] == MOST
    assert not hard["calibration"]["until"]["scales_known"]
    said = capsys.readouterr().err
    assert "% of the scales of minmax int8 tensor are known to 0.01% (asked: 95%); going on" in said
    rows = pq.read_table(tmp_path / "hard" / until.FILE).to_pylist()
    assert [row["samples"] for row in rows] == [32, 64, 128]
    assert rows[-1]["layers"] == [0, 1]


def test_a_grid_stops_where_the_most_demanding_cell_does(sweep: Run, tmp_path: Path, files: Path) -> None:
    given = [*small.overrides(files), *UNTIL, "calibration.tolerance=10%"]
    done = sweep("-m", *given, "method=percentile", "alpha=0.5,0.9999", "hydra.sweep.dir=grid", "store=grid/store")
    assert done.returncode == 0, done.stderr
    plan = " ".join(done.stdout.replace("│", " ").split())
    assert "until 95% of the scales are known to 10%, with 128 samples at most" in plan
    assert "the most demanding of 2 cells decides" in plan
    records = [json.loads((tmp_path / "grid" / str(n) / "run.json").read_text()) for n in range(2)]
    assert len({record["calibration"]["key"] for record in records}) == 1
    first, second = (record["calibration"]["until"] for record in records)
    assert first == second
    assert first["cells"] == 2
    assert {look["cell"] for look in first["looks"]} == {"percentile 0.9999 int8 tensor"}
    again = sweep("-m", *given, "method=percentile", "alpha=0.5,0.9999", "hydra.sweep.dir=grid", "store=grid/store")
    assert again.returncode == 0, again.stderr
    assert "2 of 2 cells finished" in again.stdout
    alone = sweep(*given, "method=percentile", "alpha=0.5", "hydra.run.dir=alone", "store=grid/store")
    assert alone.returncode == 0, alone.stderr
    record = json.loads((tmp_path / "alone" / "run.json").read_text())
    assert record["tokens"]["samples"] < records[0]["tokens"]["samples"]  # of itself it would have stopped there
    assert record["calibration"]["cached"]


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped again and again, whatever it is at."""
    most = "calibration.samples=64"  # two looks
    given = ("calibration.tolerance=0.001", "calibration.checkpoint=0", "calibration.fisher=40", most)

    class Killed(BaseException):
        pass

    original = passes._compute

    dice = random.Random(0)

    def observe(config: Config, asked: Any, report: Any, timings: Any) -> Any:
        def killing(*progress: Any) -> None:
            if dice.random() < 0.15:
                raise Killed
            report(*progress)

        return original(config, asked, killing, timings)

    with monkeypatch.context() as patched:
        patched.setattr(passes, "_compute", observe)
        for attempt in range(200):
            try:
                run(make(*given), tmp_path / f"try{attempt}")
                break
            except Killed:
                continue
        else:
            raise AssertionError("it never ends")
    assert attempt > 5
    ended = run(make(*given), tmp_path / "ended")
    assert written(ended) == written(run(make(*given, store="other"), tmp_path / "direct"))


@pytest.mark.slow
def test_two_jobs_decide_once(sweep: Run, files: Path, tmp_path: Path) -> None:
    given = [*small.overrides(files), *UNTIL, "calibration.tolerance=0.1%", f"store={tmp_path / 'store'}"]
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(command, tmp_path, "sweep", *given, f"hydra.run.dir=job{i}") for i in range(2)]
        assert [job.result().returncode for job in jobs] == [0, 0]
    records = [json.loads((tmp_path / f"job{i}" / "run.json").read_text()) for i in range(2)]
    assert sorted(record["calibration"]["cached"] for record in records) == [False, True]
    assert records[0]["calibration"]["until"] == records[1]["calibration"]["until"]


def test_what_is_damaged_or_pruned_is_decided_again(make: Make, tmp_path: Path, capsys: Any) -> None:
    first = run(make("alpha=0.9"), tmp_path / "first")
    store = Store(tmp_path / "store")
    assert store_command.main(["--store", str(store.root), "list"]) == 0
    listed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "how many samples do for 5% in percentile 0.9 int8 tensor" in listed
    (decision,) = (entry for entry in store.entries() if entry.name.startswith("until-"))
    file = decision / until.FILE
    file.write_bytes(file.read_bytes()[:-1])
    assert run(make("alpha=0.9"), tmp_path / "damaged")["calibration"]["until"] == first["calibration"]["until"]
    assert "deciding again" in capsys.readouterr().err
    before = written(first)
    for entry in store.entries():
        if not entry.name.startswith("until-"):
            shutil.rmtree(entry)
    pruned = run(make("alpha=0.9"), tmp_path / "pruned")
    assert written(pruned) == before
    assert not pruned["calibration"]["cached"]


def test_a_full_disk_costs_no_step_that_is_stored(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make("calibration.tolerance=0.1%")
    save, saved = Statistics.save, 0

    def full(self: Statistics, path: Path) -> None:
        nonlocal saved
        saved += 1
        if saved == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, path)

    with monkeypatch.context() as patched:
        patched.setattr(Statistics, "save", full)
        with pytest.raises(UsageError, match="No space left on device"):
            run(config, tmp_path / "failed")
    assert [entry.name.partition("x16-")[0] for entry in Store(tmp_path / "store").entries()] == ["tiny-text-32"]
    ended = run(config, tmp_path / "ended")
    assert looked(ended) == [32, 64, 128]
    assert written(ended) == written(run(make("calibration.tolerance=0.1%", store="other"), tmp_path / "direct"))


@pytest.mark.parametrize("at", ["store", "run"])
def test_a_full_disk_costs_the_decision_and_no_calibration(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """The table of the looks is half written, in the store or in the run's directory, when the disk is full."""
    config, place, store = make("alpha=0.9"), tmp_path / "cell", Store(tmp_path / "store")
    write = until.write_table

    def full(path: Path, table: Any) -> None:
        if path.is_relative_to(tmp_path / ("store" if at == "store" else "cell")):
            with draft(path) as beside:
                beside.write_bytes(b"PAR1")
                raise OSError(errno.ENOSPC, "No space left on device")
        write(path, table)

    with monkeypatch.context() as patched:
        patched.setattr(until, "write_table", full)
        with pytest.raises((UsageError, OSError), match="No space left on device") as error:
            run(config, place)
    assert isinstance(error.value, UsageError) or error.value.filename == str(place / until.FILE)
    assert "\n" not in str(error.value)
    assert runs.load(place).status is RunStatus.FAILED
    assert not list(place.glob(f"*{until.FILE}*"))
    assert any(entry.name.startswith("until-") for entry in store.entries()) == (at == "run")
    assert store.leftovers() == []
    assert store_command.main(["--store", str(store.root), "verify"]) == 0
    calibrated = {entry.name: entry.stat().st_ino for entry in store.entries()}
    ended = run(config, place)
    assert ended["calibration"]["cached"]
    assert {entry.name: entry.stat().st_ino for entry in store.entries()}.items() >= calibrated.items()
    direct = run(make("alpha=0.9", store="other"), tmp_path / "direct")
    assert ended["calibration"]["until"] == direct["calibration"]["until"]
    for table in (tmp_path / "direct").glob("*.parquet"):
        assert (place / table.name).read_bytes() == table.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("fisher", [0, 48])
def test_every_look_leaves_its_calibration_to_whoever_asks_for_it(make: Make, tmp_path: Path, fisher: int) -> None:
    given = ("calibration.tolerance=0.0001", f"calibration.fisher={fisher}")
    looks = looked(run(make(*given), tmp_path / "sure"))
    assert looks == [32, 64, 128]
    for samples in looks:
        few = make("calibration.tolerance=null", f"calibration.samples={samples}", f"calibration.fisher={fisher}")
        record = run(few, tmp_path / str(samples))
        assert record["calibration"]["cached"]
        direct = run(replace(few, store=str(tmp_path / "other")), tmp_path / f"direct{samples}")
        assert written(record) == written(direct)


def test_reproduced_from_the_samples_it_reached(make: Make, tmp_path: Path) -> None:
    from sweep.core.console import Console

    record = run(make("alpha=0.5"), tmp_path / "cell", [until.asked(make("alpha=0.9999"))])
    assert record["calibration"]["until"]["cells"] == 2
    assert reproduce.reproduce(tmp_path / "cell", Console()) == 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("calibration.tolerance=2",), "calibration.tolerance=2 is no share between 0 and 1; for example 1% or 0.01"),
        (("calibration.tolerance=often",), "calibration.tolerance=often is no share"),
        (("calibration.tolerance=0",), "calibration.tolerance=0 is no share"),
        (("calibration.tolerance_share=0",), "calibration.tolerance_share=0 is no share"),
        (("calibration.folds=4",), "takes 8 of them at least: calibration.folds=4"),
        (("calibration.shards=2",), "calibration.shards=2 must be 1"),
    ],
)
def test_what_cannot_be_is_refused(make: Make, overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError) as error:
        make(*overrides)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_shares_are_numbers_or_percentages(make: Make) -> None:
    for given in ("1%", "0.01", "'1 %'", "1.0%"):
        assert make(f"calibration.tolerance={given}").calibration.tolerance == 0.01
    assert make("calibration.tolerance_share=100%").calibration.tolerance_share == 1.0
    dead = make("calibration.tolerance=null", "calibration.tolerance_share=50%")
    assert dead.identity == make("calibration.tolerance=null").identity
