"""A recipe on the command line: from a file to a measured cell, and back to a reproduced one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import small
import yaml
from rich.console import Console

from sweep.quantization.sites import quantized
from sweep.runs.reproduce import reproduce
from tests.harness import Run

LAYERS = 2


def recipe(path: Path, formats: tuple[str, str]) -> Path:
    """Two formats, turn by turn."""
    sites = {
        layer: {
            site: {"method": "percentile", "alpha": 0.999, "format": formats[(layer + number) % 2]}
            for number, site in enumerate(quantized())
        }
        for layer in range(LAYERS)
    }
    default = {"method": "mse", "alpha": None, "format": "int8"}
    path.write_text(
        yaml.safe_dump({"schema": 1, "model": "small", "default": default, "layers": sites, "note": "kept"})
    )
    return path


def test_it_is_calibrated_measured_recorded_and_reproduced(sweep: Run, tmp_path: Path) -> None:
    small.files(tmp_path)
    recipe(tmp_path / "recipe-half.yaml", ("int4", "int8"))
    recipe(tmp_path / "recipe-all.yaml", ("int8", "int8"))
    measured: dict[str, Any] = {}
    for name, asked in (
        ("half", ["recipe=recipe-half.yaml"]),
        ("all", ["recipe=recipe-all.yaml"]),
        ("int8", ["method=percentile", "alpha=0.999"]),
        ("int4", ["method=percentile", "alpha=0.999", "format=int4"]),
    ):
        more = ["evaluate.samples=8", "evaluate.perplexity=true", f"hydra.run.dir={name}"]
        done = sweep(*small.overrides(tmp_path), *asked, *more)
        assert done.returncode == 0, done.stderr
        measured[name] = json.loads((tmp_path / name / "run.json").read_text())
    kl = {name: run["evaluation"]["kl"] for name, run in measured.items()}
    assert kl["int8"] == kl["all"] < kl["half"] < kl["int4"]
    assert measured["all"]["evaluation"]["cached"] is False
    assert measured["int8"]["evaluation"]["cached"] is True  # equal quantizers share a pass
    half = measured["half"]
    assert " recipe half int4+int8 tensor" in half["name"]
    assert half["recipe"]["note"] == "kept"
    assert "layers" not in half["recipe"]
    rows = pq.read_table(tmp_path / "half/scales.parquet").to_pylist()
    assert {row["format"] for row in rows if row["site"] in quantized()} == {"int4", "int8"}
    other = {name: pq.read_table(tmp_path / name / "scales.parquet").to_pylist() for name in ("int4", "int8")}
    for number, row in enumerate(rows):
        if row["site"] in quantized():
            assert row == other[row["format"]][number] | {"silu_gain": row["silu_gain"]}
    (tmp_path / "recipe-half.yaml").unlink()  # the run has its own copy
    assert reproduce(tmp_path / "half", Console()) == 0
