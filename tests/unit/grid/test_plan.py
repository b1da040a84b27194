"""The plan of a grid: what is one cell, what goes first, what is gone on with."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from filelock import FileLock
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from rich.console import Console

from sweep.calibration.growth import Step
from sweep.config.compose import Composer
from sweep.config.config import Config, from_dict, from_hydra
from sweep.config.hydra_errors import CONF
from sweep.config.knobs import Calibration, Data, Model
from sweep.core.errors import UsageError
from sweep.core.store_key import Key
from sweep.grid import state
from sweep.grid.plan import Plan, plan
from sweep.grid.show import show
from sweep.runs import discovery, plan_record
from sweep.runs import record as runs
from sweep.runs.results import CalibrationRecord, ModelRecord, Results, TokensRecord
from sweep.runs.status import Failure, RunStatus


def cell(model: str = "tiny", method: str = "percentile", alpha: float | None = 0.999, shards: int = 1) -> Config:
    return Config(Model(model, "nowhere"), Data("stdlib"), Calibration(shards=shards), method=method, alpha=alpha)


def key(config: Config) -> Key:
    return Key(config.model.name, {"model": config.model.name})


def planned(*configs: Config, stored: tuple[str, ...] = ()) -> Plan:
    jobs = [([f"cell={i}"], config) for i, config in enumerate(configs)]
    return plan(jobs, key, lambda config, key: key.prefix in stored)


def numbers(waves: list[list[object]]) -> list[list[int]]:
    return [[c.number for c in wave] for wave in waves]  # type: ignore[attr-defined]


def test_a_dead_knob_is_named_and_run_once() -> None:
    alphas = (0.99, 0.999, 0.9999, 0.99999, 1.0)
    found = planned(*(cell(method=m, alpha=a) for m in ("minmax", "percentile") for a in alphas))
    labels = [c.config.label for c in found.cells]
    assert labels[:2] == ["tiny minmax int8 tensor", "tiny percentile a=0.99 int8 tensor"]
    assert [c.number for c in found.cells] == list(range(6))
    assert found.dropped == ("minmax ignores alpha: 5 cells are 1",)


def test_a_cell_asked_for_twice_is_run_once() -> None:
    assert planned(cell(), cell()).dropped == ("asked for more than once: 2 cells are 1",)
    assert planned(cell(), cell(shards=2)).dropped == ("percentile ignores calibration.shards: 2 cells are 1",)


def test_one_leader_per_calibration_goes_first() -> None:
    found = planned(*(cell(m, alpha=a) for m in ("a", "b", "c") for a in (0.9, 0.99, 0.999)), stored=("b",))
    assert numbers(found.waves()) == [[0, 3, 4, 5, 6], [1, 2, 7, 8]]
    assert found.shards() == []
    assert numbers(planned(cell(), cell(alpha=0.9), stored=("tiny",)).waves()) == [[0, 1]]


def test_shards_go_before_their_leader() -> None:
    found = planned(cell("a", shards=3), cell("a", alpha=0.9, shards=3), cell("b"), cell("c", shards=2), stored=("c",))
    assert [(leader.number, shard) for leader, shard in found.shards()] == [(0, 0), (0, 1), (0, 2)]


def test_fewer_samples_go_before_more() -> None:
    """Each calibration goes on from the one before it; shards wait for what they go on from."""
    configs = [cell(name, alpha=a, shards=2 if name == "c" else 1) for name in "cabd" for a in (0.9, 0.99)]

    def continued(asked: Iterable[tuple[Config, Key]]) -> dict[str, Step]:
        keys = {key.prefix: key for _, key in asked}
        assert sorted(keys) == ["a", "b", "c"]
        stored = Key("d", {"model": "d"})
        return {
            keys[more].hash: Step(source, samples, "")
            for more, source, samples in (("a", stored, 8), ("b", keys["a"], 64), ("c", keys["b"], 128))
        }

    jobs = [([f"cell={i}"], config) for i, config in enumerate(configs)]
    found = plan(jobs, key, lambda config, key: key.prefix == "d", continued=continued)
    assert numbers(found.waves()) == [[2, 6, 7], [3, 4], [0, 5], [1]]
    assert [found.shards(wave) for wave in found.waves()[:2]] == [[], []]
    assert [(leader.number, shard) for leader, shard in found.shards(found.waves()[2])] == [(0, 0), (0, 1)]
    out = StringIO()
    show(found, Console(file=out, width=160))
    assert "to compute in cell 2; 8 of 512 samples are there" in out.getvalue()
    assert "to compute in cell 4; 64 of 512 samples come from cell 2" in out.getvalue()
    assert "merged by cell 0; 128 of 512 samples come from cell 4" in out.getvalue()


def test_an_interrupted_sweep_keeps_its_numbers(tmp_path: Path) -> None:
    earlier = planned(cell("a"), cell("b"), cell("c"))
    again = planned(cell("c"), cell("a"), cell("b"))
    assert again.same(earlier.recorded)
    finish(tmp_path / "1", cell("b"))
    finish(tmp_path / "2", cell("b"))  # not what belongs there
    resumed = again.resumed(earlier.recorded, tmp_path)
    assert resumed.done == {1}
    assert [(c.number, c.config.model.name) for c in resumed.cells] == [(0, "a"), (1, "b"), (2, "c")]
    assert numbers(resumed.waves()) == [[0, 2]]
    assert not planned(cell("a"), cell("b")).same(earlier.recorded)
    assert not planned(cell("a"), cell("b"), cell("c", alpha=0.5)).same(earlier.recorded)


def test_a_plan_is_read_as_it_was_written_and_an_early_one_without_directories(tmp_path: Path) -> None:
    written = planned(cell("a"), cell("b")).recorded
    written.write(tmp_path)
    assert plan_record.read(tmp_path) == written
    file = tmp_path / plan_record.FILE
    raw = json.loads(file.read_text())
    for entry in raw["cells"]:
        del entry["directory"]
    file.write_text(json.dumps(raw))
    assert plan_record.read(tmp_path) == written  # each lay below its number
    for other in (
        {"schema": 2, "cells": []},
        {"cells": []},
        {"schema": 1, "cells": [{}]},
        {"schema": 1, "cells": [3]},
        [],
    ):
        file.write_text(json.dumps(other))
        assert plan_record.read(tmp_path) is None
    assert plan_record.read(tmp_path / "nowhere") is None


def test_the_plan_is_shown() -> None:
    out = StringIO()
    cells = cell("a", shards=2), cell("a", "minmax"), cell("a", "minmax", 0.5), cell("b")
    show(planned(*cells, stored=("b",)), Console(file=out, width=120))
    text = out.getvalue()
    assert "plan: 3 cells, 2 calibrations" in text
    assert "minmax ignores alpha: 2 cells are 1" in text
    assert "0–1" in text
    assert "to compute in 2 shards, merged by cell 0" in text
    assert "in the store" in text


# --- the directory of a sweep ----------------------------------------------------------------------------


def finish(directory: Path, config: Config) -> None:
    runs.finish(directory, runs.start(directory, runs.describe(config, "g")), results(key(config)))


def results(key: Key) -> Results:
    """What a finished cell with that calibration records."""
    calibration, model = CalibrationRecord(key.hash, key.preimage, "", False), ModelRecord("tiny", "sha256:00")
    return Results(calibration, model, TokensRecord("00", "stdlib", 8, 64), None, {}, {})


def test_an_unfinished_sweep_is_gone_on_with(tmp_path: Path) -> None:
    found = planned(cell("a"), cell("b"))
    with state.claimed(tmp_path / "1", False, found, True) as first:
        finish(first.directory / "0", cell("a"))
        with state.claimed(tmp_path / "2", False, found, True) as meanwhile:  # the first one is still at it
            assert meanwhile.directory.name == "2"
        (meanwhile.directory / "plan.json").unlink()
    with state.claimed(tmp_path / "3", False, found, True) as again:
        assert again.directory == first.directory
        assert again.plan.done == {0}
        finish(again.directory / "1", cell("b"))
    with state.claimed(tmp_path / "3", False, found, True) as anew:  # finished: the same command is a new sweep
        assert anew.directory.name == "3"
        assert anew.plan.done == frozenset()


def test_resume_false_starts_anew_and_never_in_an_old_directory(tmp_path: Path) -> None:
    found = planned(cell("a"))
    with state.claimed(tmp_path / "1", False, found, True):
        pass
    with state.claimed(tmp_path / "1", False, found, False) as anew:  # as when the clock goes back
        assert anew.directory.name == "1-2"


def test_a_chosen_directory_is_that_or_an_error(tmp_path: Path) -> None:
    found = planned(cell("a"))
    with state.claimed(tmp_path / "mine", True, found, True) as first:
        assert first.directory.name == "mine"
        with (
            pytest.raises(UsageError, match="another process is running"),
            state.claimed(tmp_path / "mine", True, found, True),
        ):
            pass
    with state.claimed(tmp_path / "mine", True, found, True) as again:
        assert again.directory.name == "mine"
    with (
        pytest.raises(UsageError, match="holds another sweep"),
        state.claimed(tmp_path / "mine", True, planned(cell("b")), True),
    ):
        pass


def files(directory: Path) -> set[str]:
    return {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file() and p.name != ".lock"}


def swept(directory: Path, config: Config, group: str) -> None:
    """A finished cell of that sweep, with files of a run and one of its user's."""
    runs.finish(directory, runs.start(directory, runs.describe(config, group)), results(key(config)))
    (directory / ".hydra").mkdir()
    for name in ("scales.parquet", "recipe.yaml", "sweep.log", ".hydra/config.yaml"):
        (directory / name).write_text("a")


def test_a_smaller_grid_leaves_none_of_the_cells_that_it_replaces(tmp_path: Path) -> None:
    """With overwrite, those of the sweep itself go; other runs, and other files, stay as they are."""
    place = tmp_path / "mine"
    with state.claimed(place, True, planned(*(cell(alpha=a) for a in (0.1, 0.2, 0.3, 0.4))), True):
        pass
    for number, alpha in enumerate((0.1, 0.2, 0.3)):
        swept(place / str(number), cell(alpha=alpha), "mine")
    (place / "3" / ".hydra").mkdir(parents=True)  # killed at once
    swept(place / "older", cell(alpha=0.7), "mine")  # of a sweep before, of which there is no plan any more
    swept(place / "theirs", cell(alpha=0.5), "another")
    (place / "2" / "notes.txt").write_text("keep")
    theirs = {name for name in files(place) if name.startswith("theirs")}
    smaller = planned(cell(alpha=0.9), cell(alpha=0.99))
    with pytest.raises(UsageError, match="holds another sweep"), state.claimed(place, True, smaller, True):
        pass
    held = FileLock(place / "2" / ".lock")
    before = files(place)
    with (
        held,
        pytest.raises(UsageError, match="mine/2: another process is running in it"),
        state.claimed(place, True, smaller, True, overwrite=True),
    ):
        pass
    assert files(place) == before
    with state.claimed(place, True, smaller, True, overwrite=True):
        left = files(place)
    assert left - {name for name in left if name[0] in "01"} == {"plan.json", "2/notes.txt", *theirs}
    assert {name for name in left if name[0] in "01"} == {name for name in before if name[0] in "01"}  # written anew
    assert not (place / "3").exists()
    assert sorted(p.name for _, cells in discovery.sweeps(place) for p in cells) == ["0", "1", "2", "theirs"]


def test_a_failed_leader_fails_its_own_followers(tmp_path: Path) -> None:
    found = planned(cell("a"), cell("a", alpha=0.9), cell("b"), cell("b", alpha=0.9))
    under_way = state.Grid(tmp_path, found)
    leaders, followers = found.waves()
    finish(tmp_path / "2", cell("b"))
    record = runs.start(tmp_path / "0", runs.describe(cell("a"), "g"))
    runs.fail(tmp_path / "0", record, Failure.of(UsageError("no such weights")))
    under_way.settle(under_way.ready(leaders), [None, None])
    assert [c.number for c in under_way.ready(followers)] == [3]
    error = "its calibration failed in cell 0: no such weights"
    assert runs.load(tmp_path / "1").failure == Failure(error, mendable=True)
    assert under_way.exit_code == 2
    under_way.settle(followers[1:], [MemoryError("out of\nmemory")])
    assert under_way.exit_code == 1
    assert under_way.failures() == [
        "cell 0 (a percentile a=0.999 int8 tensor): no such weights (1 cell that needs its calibration failed with it)",
        "cell 3 (b percentile a=0.9 int8 tensor): MemoryError: out of",
    ]


def test_a_job_in_another_environment_keeps_its_result(tmp_path: Path) -> None:
    (wave,) = (found := planned(cell())).waves()
    place = tmp_path / "0"
    record = runs.start(place, runs.describe(cell(), "g"))
    runs.finish(place, record, results(Key("tiny", key(cell()).preimage | {"a": 1})))
    for exception, message in (
        (None, "its job finished something else than this process planned (a: 1 there, None here); start the"),
        (ModuleNotFoundError("No module named 'new'"), "ModuleNotFoundError: No module named 'new'"),
    ):
        under_way = state.Grid(tmp_path, found)
        under_way.settle(wave, [exception])
        assert message in str(under_way.failures()[0])
        assert under_way.exit_code == (1 if exception else 2)
        kept = runs.load(place)
        assert (kept.status, kept.failure) == (RunStatus.FINISHED, None)
        assert kept.results
        assert kept.results.calibration.preimage == key(cell()).preimage | {"a": 1}
    for other, message in (
        (replace(record, config=cell(alpha=0.9).to_dict()), "planned (another configuration);"),
        (replace(record, versions=record.versions | {"sweep": "0"}), "planned (sweep: 0 there, "),
    ):
        runs.finish(place, other, results(key(cell())))
        under_way = state.Grid(tmp_path, found)
        under_way.settle(wave, [None])
        assert message in str(under_way.failures()[0])


# --- composing many cells --------------------------------------------------------------------------------

CASES = [
    [],
    ["method=minmax"],
    ["alpha=1", "format=int8"],
    ["alpha=null", "method=minmax"],
    ["data=text", "data.path=/tmp/a b.txt"],
    ["data=text", "data.path='/tmp/a=b,c'"],
    ["calibration.samples=16", "calibration.folds=4", "dtype=bfloat16"],
    ["wandb.tags=[a,b]", "wandb.group='7'"],
    ["calibration.seed=${calibration.folds}"],
    ["+wandb={mode:offline}"],
    ["model={name:x,path:y}"],
    ["calibration={samples:16,seqlen:8}"],
]
BAD = [
    ["alpha=two"],
    ["alpha=2"],
    ["method=maximum"],
    ["calibration.samples=1.5"],
    ["calibration.sample=3"],
    ["nonsense=3"],
    ["data=text"],
    ["data=nonsense"],
    ["calibration.folds=600"],
    ["calibration=3"],
]


@pytest.mark.parametrize("overrides", CASES + BAD, ids=" ".join)
def test_composing_is_what_hydra_does(overrides: list[str]) -> None:
    def outcome(make: object) -> object:
        try:
            return make(overrides)  # type: ignore[operator]
        except Exception as error:
            return type(error), str(error)

    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", [], RunMode.MULTIRUN)
        OverridesParser.create(config_loader=loader)
        expected = outcome(lambda o: from_hydra(compose("config", list(o))))
        assert outcome(Composer(loader, master)) == expected
        assert isinstance(expected, Config) == (overrides in CASES)


def test_a_configuration_comes_back_from_its_record() -> None:
    config = cell(shards=3)
    assert from_dict(config.to_dict()) == config
    with pytest.raises(UsageError, match=r"unknown key calibration\.sample;"):
        from_dict({**config.to_dict(), "calibration": {"sample": 3}})
    with pytest.raises(UsageError, match="missing"):
        from_dict({"method": "minmax"})
