"""The query layer against pandas on the same files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import World, mamba, write

from sweep.compare import Comparison, load
from sweep.core.errors import UsageError


def test_finds_every_finished_cell_and_lists_the_rest(runs: Comparison) -> None:
    assert len(runs.listed) == 7
    kinds = {p.path.name: (p.kind, p.reason) for p in runs.problems}
    assert set(kinds) == {"running", "failed", "damaged", "torn"}
    assert kinds["running"][0] == "unfinished"
    assert kinds["running"][1].startswith("running since 2026-")
    assert kinds["failed"] == ("failed", "CUDA out of memory")
    assert kinds["damaged"][0] == "damaged"
    assert kinds["torn"] == ("unfinished", "run.json is missing")


def test_rows_are_those_of_the_files(runs: Comparison) -> None:
    mine = runs.scales()
    parts = []
    for label, cell in zip(runs.labels, runs.listed, strict=True):
        parts.append(pd.read_parquet(cell.path / "scales.parquet").assign(label=label))
    theirs = pd.concat(parts)
    order = ["label", "layer", "site", "ssd_group", "head_group", "dim_group"]
    columns = [*order, "n", "scale", "sqnr_db", "silu_gain", "ratio", "clip_fraction", "model", "format"]
    pd.testing.assert_frame_equal(
        mine.sort_values(order)[columns].reset_index(drop=True),
        theirs.sort_values(order)[columns].reset_index(drop=True),
        check_dtype=False,
    )


def test_groups_are_pooled_by_energy(runs: Comparison, world: World) -> None:
    """Pooled SQNR of a grouped site equals signal over noise of all its values, by brute force."""
    cell = next(i for i, c in enumerate(runs.listed) if c.granularity != "tensor")
    table = pd.read_parquet(runs.listed[cell].path / "scales.parquet").query("site == 'x_conv_out' and layer == 1")
    noise = (table.n * table.mse).sum() / table.n.sum()
    signal = np.mean(np.concatenate(world.values[1, "x_conv_out"]) ** 2)
    found = runs.sql("SELECT scale, sqnr_db FROM points WHERE cell = ? AND layer = 1 AND site = 'x_conv_out'", [cell])
    assert found[0] == pytest.approx((table.scale.mean(), 10 * np.log10(signal / noise)), rel=1e-9)


def test_filters(demo: Path) -> None:
    some = load(demo, site="x_*", layer="0-1,3", method="percentile", alpha=0.9995, format="int8", granularity="tensor")
    assert [c.setting for c in some.listed] == ["percentile 0.9995"]
    assert some.sites == ["x_conv_in", "x_conv_out", "x_conv_pre"]
    assert some.sql("SELECT DISTINCT layer FROM rows ORDER BY 1") == [(0,), (1,), (3,)]


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"model": "8b"}, ["model=8b", "tiny"]),
        ({"alpha": "0.5"}, ["alpha=0.5", "0.9995"]),
        ({"alpha": "high"}, ["alpha=high", "for example"]),
        ({"layer": "9"}, ["layer=9", "0-3"]),
        ({"layer": "3-1"}, ["layer=3-1", "from low to high", "0-3,7"]),
        ({"layer": "0,-1"}, ["layer=0,-1", "for example"]),
        ({"site": "y_*"}, ["y_*", "x_conv_out"]),
        ({"flavour": "x"}, ["flavour", "granularity"]),
    ],
)
def test_a_filter_that_leaves_nothing_says_what_there_is(demo: Path, filters: dict[str, str], words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        load(demo, **filters)
    assert all(word in str(error.value) for word in words)


def test_paths_that_hold_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="runs/ holds no cells yet"):
        load()
    with pytest.raises(UsageError, match="no such directory"):
        load("nowhere")
    with pytest.raises(UsageError, match="matches nothing"):
        load("no*where")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no cells here"):
        load("empty")


def test_latest_sweep_by_default_and_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = mamba(layers=1, size=60)
    for i, sweep in enumerate(("old", "new")):
        cell = write(tmp_path / "runs" / sweep / "0", world)
        os.utime(cell.parent, (i, i))
    monkeypatch.chdir(tmp_path)
    assert [c.sweep for c in load().listed] == ["new"]
    assert len(load("runs/*").listed) == 2
    assert len(load("runs/*/0/scales.parquet").listed) == 2


def test_names_that_are_patterns_or_partitions(tmp_path: Path) -> None:
    """Directories called like globs, quotes or hive partitions are just directories."""
    world = mamba(layers=1, size=60)
    names = ["a[1]", "a1", "it's", "model=2.7b", "x*y", "日本 <script>"]
    for i, name in enumerate(names):
        write(tmp_path / "s" / name, world, alpha=0.9 + i / 100)
    runs = load(tmp_path / "s")
    assert {c.path.name for c in runs.listed} == set(names)
    for i, cell in enumerate(runs.listed):
        expected = pd.read_parquet(cell.path / "scales.parquet").scale.sum()
        assert runs.sql("SELECT sum(scale) FROM rows WHERE cell = ?", [i])[0][0] == pytest.approx(expected)
    assert set(runs.scales().model) == {"tiny"}


def test_a_table_that_lacks_columns_is_damaged(tmp_path: Path) -> None:
    world = mamba(layers=1, size=60)
    write(tmp_path / "good", world)
    bad = write(tmp_path / "old", world, alpha=0.9)
    pd.read_parquet(bad / "scales.parquet").drop(columns="sqnr_db").to_parquet(bad / "scales.parquet")
    runs = load(tmp_path)
    assert [c.path.name for c in runs.listed] == ["good"]
    assert "sqnr_db" in runs.problems[0].reason


def test_incompatible_cells_are_flagged(tmp_path: Path) -> None:
    same = mamba(layers=1, size=60)
    write(tmp_path / "a", same)
    assert load(tmp_path).warnings == []
    write(tmp_path / "b", mamba(layers=1, size=60, tokens="b" * 64))
    write(tmp_path / "c", mamba(layers=1, size=60, weights="random"))
    write(tmp_path / "d", mamba(layers=1, size=60, dtype="bfloat16"))
    runs = load(tmp_path)
    text = "\n".join(runs.warnings)
    for words in (
        "random weights: tiny",
        "2 different sets of weights",
        "2 different token sets",
        "2 different dtypes",
    ):
        assert words in text
    assert sorted(runs.cells().calibration) == ["A", "B", "C", "D"]


@pytest.mark.parametrize("grid", [None, (2, 2)])
def test_cells_of_an_older_version_lack_columns(tmp_path: Path, grid: tuple[int, int] | None) -> None:
    """Whichever of them is read first."""
    for name, alpha in (("a", 0.99), ("b", 0.999), ("c", 0.9999)):
        write(tmp_path / name, mamba(layers=1, folds=2), alpha=alpha, grid=grid)
    newer = 0
    for name in "bac":  # one in the middle, then the first, then all
        file = tmp_path / name / "scales.parquet"
        table = pq.read_table(file)
        pq.write_table(table.append_column("loss", pa.array([0.5] * len(table))), file)
        newer += len(table)
        frame = load(tmp_path).scales()
        assert (frame.loss == 0.5).sum() == newer
        assert len(frame) == 3 * len(table)


def test_imports_neither_torch_nor_wandb_nor_pandas() -> None:
    code = (
        "import sys, sweep.compare, sweep.compare.answer, sweep.compare.render.report, sweep.compare.render.terminal\n"
        "print([m for m in ('torch', 'wandb', 'pandas', 'matplotlib', 'transformers', 'hydra') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_labels_say_what_differs(runs: Comparison) -> None:
    assert "percentile 0.9995 · int8 · group2x2" in runs.labels
    assert "minmax · int8 · tensor (alpha 0.9995 unused)" in runs.labels
    assert len(set(runs.labels)) == len(runs.labels)


def test_as_a_program(demo: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sweep.compare", str(demo), "--table", "cells", "--format", "json"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"cells"' in done.stdout


@pytest.mark.parametrize("table", [(), ("--table", "all"), ("--format", "json")])
def test_cells_without_the_rows_asked_for_are_left_out(
    tmp_path: Path, compare: Callable[..., Any], table: tuple[str, ...]
) -> None:
    """Of two models one has no third layer."""
    for name, layers in (("deep", 3), ("flat", 2)):
        for alpha in (0.9, 0.99):
            write(tmp_path / f"{name}{alpha}", mamba(layers=layers, size=60, model=name), alpha=alpha)
    runs = load(tmp_path, layer=2)
    assert [(cell.model, cell.alpha) for cell in runs.listed] == [("deep", 0.9), ("deep", 0.99)]
    assert sorted(runs.sql("SELECT DISTINCT cell FROM rows")) == [(0,), (1,)]
    assert runs.cells().model.tolist() == ["deep", "deep"]
    assert not runs.problems
    done = compare(str(tmp_path), "--no-html", "--layer", "2", *table)
    told = done.out.replace("2 cells of flat, which has nothing of layer=2", "")
    assert (done.code, "flat" in told) == (0, False)


@pytest.mark.parametrize("name", ["scales", "replicates", "convergence", "histograms"])
def test_a_cell_of_which_any_table_is_torn_is_set_apart(name: str, tmp_path: Path) -> None:
    cells = [write(tmp_path / str(alpha), mamba(layers=1, size=60), alpha=alpha) for alpha in (0.9, 0.99)]
    file = cells[0] / f"{name}.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    runs = load(tmp_path)
    assert [cell.path for cell in runs.listed] == [cells[1]]
    assert [str(problem) for problem in runs.problems] == [f"{cells[0]}: damaged, {name}.parquet is torn"]
    cells[1].joinpath(file.name).write_bytes(b"")
    with pytest.raises(UsageError, match=f"no cell can be read; the first: .*{name}.parquet is torn"):
        load(tmp_path)


def test_a_table_damaged_inside_is_named(tmp_path: Path, compare: Callable[..., Any]) -> None:
    """Its ends are whole, so that nobody knows before its values are asked for."""
    cells = [write(tmp_path / str(alpha), mamba(layers=1, size=60), alpha=alpha) for alpha in (0.9, 0.99)]
    file = cells[1] / "replicates.parquet"
    content = file.read_bytes()
    end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    file.write_bytes(content[:4] + bytes(end - 4) + content[end:])
    done = compare(str(tmp_path), "--no-html")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {cells[1]}: damaged, replicates.parquet: ")
    assert done.err.endswith("; remove the cell, or compute it again, and compare once more\n")
    assert done.err.count("\n") == 1
