"""python -m sweep.reproduce: bit-identical, or where and why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small

from sweep.runs.reproduce import main
from tests.harness import Run, command


@pytest.fixture
def run(sweep: Run, tmp_path: Path) -> Path:
    done = sweep(*small.overrides(small.files(tmp_path)), "hydra.run.dir=runs/cell")
    assert done.returncode == 0, done.stderr
    return tmp_path / "runs/cell"


def edit(run: Path, **changes: Any) -> None:
    record = json.loads((run / "run.json").read_text())
    for path, value in changes.items():
        section, key = path.split("__")
        record[section][key] = value
    (run / "run.json").write_text(json.dumps(record))


@pytest.mark.slow
def test_a_cell_is_reproduced(run: Path) -> None:
    before = {p.name: p.read_bytes() for p in run.glob("*.*") if p.is_file()}
    done = command(run.parent, "sweep.reproduce", str(run))
    assert done.returncode == 0, done.stderr
    assert "bit-identical in 4 tables" in done.stdout
    assert {p.name: p.read_bytes() for p in run.glob("*.*") if p.is_file()} == before


def test_a_difference_is_placed_and_sized(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pq.read_table(run / "scales.parquet")
    scale = table["scale"].to_numpy().copy()
    row = table["site"].to_pylist().index("x_conv_out")
    scale[row] *= 1 + 1e-6
    at = table.column_names.index("scale")
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(scale)), run / "scales.parquet")
    assert main([str(run)]) == 1
    text = capsys.readouterr().out
    assert "scales.parquet: 1 places differ" in text
    assert "layer 0 site x_conv_out" in text
    assert "1.0e-06" in text
    assert "nothing that is recorded changed" in " ".join(text.split())


def test_a_column_that_it_did_not_have_yet_is_no_difference(run: Path) -> None:
    table = pq.read_table(run / "scales.parquet")
    pq.write_table(table.drop_columns(["loss", "loss_se"]), run / "scales.parquet")
    assert main([str(run)]) == 0


def test_the_last_bit_counts(run: Path) -> None:
    table = pq.read_table(run / "scales.parquet")
    scale = table["scale"].to_numpy().copy()
    scale[3] = np.nextafter(scale[3], 1)
    at = table.column_names.index("scale")
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(scale)), run / "scales.parquet")
    assert main([str(run)]) == 1


def test_other_weights_are_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small.write(tmp_path / "model", seed=1)
    assert main([str(run)]) == 1
    text = capsys.readouterr().out
    assert "what changed since:" in text
    assert "calibration.model: " in text
    assert "layer 1" in text


def test_a_change_without_effect_is_said_to_have_none(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(run, versions__numpy="1.0", device__name="another")
    assert main([str(run)]) == 0
    text = capsys.readouterr().out
    assert "although these changed since:" in text
    assert "versions.numpy: 1.0 → " in text
    assert "device.name: another → " in text


def test_mistakes_are_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main([str(tmp_path)]) == 2
    assert "holds no run.json" in capsys.readouterr().err
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "status": "failed"}))
    assert main([str(run)]) == 2
    assert "is failed, not finished" in capsys.readouterr().err
    (run / "run.json").write_text(json.dumps({**record, "device": None}))  # as one of Quamba's checkpoint
    assert main([str(run)]) == 2
    assert "holds scales that were computed elsewhere" in capsys.readouterr().err
