"""The one place that finds cells: comparison, listing and replay see the same ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic import mamba, write

from sweep.runs import compared, discovery, listing
from sweep.runs.tracking import replay


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Sweeps of every shape that this version, earlier ones and other sweepers leave, and what is no cell."""
    root, world = tmp_path / "runs", mamba(layers=1, size=20, folds=2, parts="x")
    for cell in ("alone", "grid/0", "grid/1", "deep/method=mse/alpha=0.9", "deep/method=mse/alpha=1", "other/0/a"):
        write(root / cell, world)
    (root / "grid" / "plan.json").write_text(json.dumps({"cells": [{}] * 4}))
    (root / "deep" / "plan.json").write_text("{}")
    (root / "other" / "multirun.yaml").touch()
    (root / "grid" / "2").mkdir()  # its job was killed before it wrote a file
    (root / "grid" / "3" / ".hydra").mkdir(parents=True)
    (root / "deep" / "method=mse" / "alpha=2" / ".hydra").mkdir(parents=True)
    (root / "died" / ".hydra").mkdir(parents=True)
    for elsewhere in (
        "grid/0/wandb/copy",
        "grid/.shards/0-0",
        "grid/shards/0-0",  # of earlier versions
        "grid/.submitit/7",
        "calibrations/0123",
        "notes/2026",
    ):
        (root / elsewhere / ".hydra").mkdir(parents=True)
    (root / "notes" / "2026" / ".hydra").rmdir()
    return root


CELLS = {
    "alone": ["."],
    "deep": ["method=mse/alpha=0.9", "method=mse/alpha=1", "method=mse/alpha=2"],
    "died": ["."],
    "grid": ["0", "1", "2", "3"],
    "other": ["0/a"],
}


def test_sweeps_and_their_cells(root: Path) -> None:
    seen = {
        str(place.relative_to(root)): [str(cell.relative_to(place)) for cell in cells]
        for place, cells in discovery.sweeps(root)
    }
    assert seen == CELLS


def test_all_who_look_see_the_same(root: Path) -> None:
    everywhere = {root / sweep / cell for sweep, cells in CELLS.items() for cell in cells}
    assert set(discovery.find([str(root)])) == everywhere
    assert set(replay.find([root])) == everywhere
    listed = {sweep.path.name: sum(sweep.cells.values()) for sweep in listing.sweeps([root])}
    assert listed == {sweep: len(cells) for sweep, cells in CELLS.items()}


def test_what_is_wrong_with_a_cell_is_said_alike(root: Path) -> None:
    """The comparison calls a cell without a record unfinished, the listing counts it as damaged."""
    cells, problems = compared.read(discovery.find([str(root)]))
    assert len(cells) == 6
    damaged = {path: why for sweep in listing.sweeps([root]) for path, why in sweep.damaged.items()}
    assert damaged == {problem.path: problem.reason for problem in problems}
    assert set(damaged.values()) == {"run.json is missing"}


def test_a_cell_itself_may_be_named_wherever_it_lies(root: Path) -> None:
    assert discovery.find([str(root / "grid" / "0")]) == [root / "grid" / "0"]
    assert discovery.find([str(root / "deep" / "method=mse")]) == [root / "deep" / cell for cell in CELLS["deep"]]
    assert discovery.find([str(root / "*" / "0" / "run.json")]) == [root / "grid" / "0"]
    assert discovery.find([str(root / "died")]) == [root / "died"]
