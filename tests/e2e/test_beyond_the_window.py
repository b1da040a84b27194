"""Weights that drive float32 activations far out of float16's range: right numbers at every site."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import small
import torch

from tests.harness import Run

SMALL = ("calibration.samples=4", "calibration.seqlen=32", "calibration.folds=2", "calibration.batch_size=2")
FACTORS = {1: 2.0**22, 2: 2.0**-33}  # of the convolution's weights, by layer


def scale(weights: dict[str, torch.Tensor]) -> None:
    for layer, factor in FACTORS.items():
        for name in ("conv1d.weight", "conv1d.bias"):
            weights[f"backbone.layers.{layer}.mixer.{name}"] *= factor


def rows(directory: Path) -> dict[tuple[int, str], dict[str, Any]]:
    return {(r["layer"], r["site"]): r for r in pq.read_table(directory / "scales.parquet").to_pylist()}


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.parametrize("method", ["percentile", "mse"])
def test_numbers_do_not_depend_on_the_magnitude(sweep: Run, tmp_path: Path, method: str, stream: str) -> None:
    plain = small.shipped(tmp_path / "plain", lambda weights: None)
    for layer in FACTORS:  # one at a time: what follows a changed layer is another network
        changed = small.shipped(
            tmp_path / f"changed{layer}",
            lambda weights, layer=layer: [
                weights[f"backbone.layers.{layer}.mixer.conv1d.{name}"].mul_(FACTORS[layer])
                for name in ("weight", "bias")
            ],
        )
        asked = (*SMALL, "model=local", f"method={method}", f"model.stream={stream}")
        for path, name in ((plain, "a"), (changed, f"b{layer}")):
            done = sweep(*asked, f"model.path={path}", f"hydra.run.dir={name}")
            assert done.returncode == 0, done.stderr
        said = done.stderr
        assert f"layer {layer}, site " in said
        assert "observed again, scaled" in said
        a, b = rows(tmp_path / "a"), rows(tmp_path / f"b{layer}")
        for part in "xBC":
            before, after = a[layer, f"{part}_conv_pre"], b[layer, f"{part}_conv_pre"]
            assert after["absmax"] == before["absmax"] * FACTORS[layer]
            assert after["scale"] == pytest.approx(before["scale"] * FACTORS[layer], rel=2e-3)
            assert after["sqnr_db"] == pytest.approx(before["sqnr_db"], abs=0.05)
        for key in ((layer, "in_proj_in"), (0, "x_conv_out")):  # what does not need it is what it was
            assert a[key] == {**b[key], "model": a[key]["model"]}
        record = json.loads((tmp_path / f"b{layer}" / "run.json").read_text())
        assert record["calibration"]["rescaled"]["preimage"]["shifts"]
        assert "rescaled" not in json.loads((tmp_path / "a" / "run.json").read_text())["calibration"]


@pytest.mark.slow
def test_groups_beyond_the_window(sweep: Run, tmp_path: Path) -> None:
    path = small.shipped(tmp_path / "changed", scale)
    done = sweep(*SMALL, "model=local", f"model.path={path}", "method=mse", "granularity=group", "hydra.run.dir=a")
    assert done.returncode == 0, done.stderr
    for row in pq.read_table(tmp_path / "a/scales.parquet").to_pylist():
        assert row["sqnr_db"] is None or 20 < row["sqnr_db"] < 70, row
