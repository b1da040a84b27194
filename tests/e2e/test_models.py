"""Real models from the command line: a size with random weights, a hybrid on disk, one layer at a time."""

from __future__ import annotations

import json
from pathlib import Path

import families
import pyarrow.parquet as pq

from tests.harness import Run

SMALL = ("calibration.samples=4", "calibration.seqlen=32")


def test_random_weights_of_a_named_size_are_marked_everywhere(sweep: Run, tmp_path: Path) -> None:
    shallow = "model.geometry.n_layer=2"
    done = sweep("model=130m", "model.weights=random", shallow, *SMALL, "hydra.run.dir=whole")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "whole/run.json").read_text())
    assert record["model"]["name"] == "130m-random"
    assert record["model"]["weights"] == "random"
    assert record["model"]["identity"].startswith("random:")
    assert record["model"]["d_model"] == 768
    assert record["name"].startswith("130m-random ")
    table = pq.read_table(tmp_path / "whole/scales.parquet")
    assert set(table["model"].to_pylist()) == {"130m-random"}
    assert "130m-random" in done.stdout
    # the same network, one layer at a time and into a store of its own
    again = sweep(
        "model=130m",
        "model.weights=random",
        shallow,
        *SMALL,
        "model.stream=true",
        "store=other",
        "hydra.run.dir=streamed",
    )
    assert again.returncode == 0, again.stderr
    assert not json.loads((tmp_path / "streamed/run.json").read_text())["calibration"]["cached"]
    assert pq.read_table(tmp_path / "streamed/scales.parquet").equals(table)
    assert [p.name for p in (tmp_path / "other").iterdir() if p.name.endswith(".work")] == []


def test_a_hybrid_has_rows_for_its_mamba_layers_only(sweep: Run, tmp_path: Path) -> None:
    family = next(f for f in families.FAMILIES if f.name == "bamba")
    checkpoint = tmp_path / "bamba"
    family.build().save_pretrained(checkpoint)
    done = sweep("model=local", f"model.path={checkpoint}", "model.weights=random", *SMALL, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "run/scales.parquet").to_pylist()
    assert {row["layer"] for row in rows} == set(family.layers) == {0, 2}
    assert len(rows) == 2 * 11


def test_what_does_not_fit_together_is_one_line(sweep: Run, tmp_path: Path) -> None:
    for arguments, said in (
        (("model=hf",), "model.name"),
        (("model=local",), "model.path"),
        (("model=130m", "model.backend=mamba_ssm", "model.weights=random"), "model.backend=mamba_ssm"),
        (("model=130m", "model.weights=randm"), "did you mean random?"),
        (("data=hub",), "data.name"),
        (("data.cut=words",), "windows, texts"),
    ):
        done = sweep(*SMALL, *arguments)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
