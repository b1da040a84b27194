"""What a finished cell says on the terminal."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from cells import RECORD, finished

from sweep.core.console import Console
from sweep.evaluation.scores import Scores
from sweep.runs import summary
from sweep.runs.record import RunRecord


def said(directory: Path, capsys: pytest.CaptureFixture[str], **record: Any) -> str:
    tables = SimpleNamespace(scales=pq.read_table(directory / "scales.parquet"))
    run = RunRecord.from_dict(RECORD | {"loss": None} | record)
    cell = SimpleNamespace(
        tables=tables, record=run, results=run.results, directory=directory, how="computed", hints=[]
    )
    summary.show(cell, Console(width=120))  # type: ignore[arg-type]
    return capsys.readouterr().out


def test_groups_are_summed_up_by_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line per layer, with how many scales there are and how far apart, not one line per group without its number."""
    directory = finished(tmp_path / "g", layers=3, groups=32)
    text = said(directory, capsys)
    rows = pq.read_table(directory / "scales.parquet").to_pandas().query("site == 'x_conv_out'")
    lines = [line.split("│") for line in text.splitlines() if line.count("│") == 9]
    assert len(lines) == 3
    for line, (layer, mine) in zip(lines, rows.groupby("layer"), strict=True):
        cells = [part.strip() for part in line[1:-1]]
        spread = mine.scale.max() / mine.scale.min()
        assert cells[:2] == [str(layer), "32"]
        assert cells[2] == f"{mine.scale.min():.5f}"
        assert cells[4:6] == [f"{mine.scale.max():.5f}", f"{spread:.2f}"]


def test_one_scale_a_layer_is_shown_as_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "± se" in said(finished(tmp_path / "t"), capsys)


def test_agreement_is_called_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ones = np.full(8, 100)
    s = Scores(ones, ones, 200.0 + np.arange(8), 199.0 + np.arange(8), np.ones(8), ones)
    text = {"samples": 8, "seqlen": 100, "data": "stdlib"}
    evaluation = {**s.summary(), "baseline": s.baseline(), "tokens": text}
    shown = said(finished(tmp_path / "t"), capsys, evaluation=evaluation)
    assert "top-1 agreement" in shown
    assert "first choice" not in shown


def test_what_is_unknown_has_no_worst_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = finished(tmp_path / "g", layers=3, groups=4)
    table = pq.read_table(directory / "scales.parquet").to_pandas()
    table.loc[table.site == "x_conv_out", "sqnr_db"] = None
    table.to_parquet(directory / "scales.parquet")
    text = said(directory, capsys)
    (row,) = [line.split("│") for line in text.splitlines() if line.startswith("│ x_conv_out")]
    assert [part.strip() for part in row[5:8]] == ["–"] * 3
    assert "SiLU gain" not in text  # of groups no gain and no ratio are shown


def test_a_setting_has_one_row_and_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usual = [{"method": "minmax", "alpha": None, "loss": 0.002, "loss_se": 0.001},
             {"method": "percentile", "alpha": 0.9995, "loss": 0.003, "loss_se": 0.001}]  # fmt: skip
    loss = {"loss": 0.003, "loss_se": 0.002, "bits": 8.0, "layers": [], "standard": usual,
            "sites": {"x_conv_out": {"loss": 0.003, "loss_se": 0.002}}}  # fmt: skip
    text = said(finished(tmp_path / "t"), capsys, loss=loss)
    assert "this cell" in text
    assert "minmax" in text
    assert "percentile 0.9995 │" not in text


def test_sensitive_layers_have_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers = [{"layer": 0, "only": {"kl": 0.01, "kl_se": 0.002}}, {"layer": 1, "only": {"kl": 0.03, "kl_se": 0.004}}]
    ones = np.full(8, 100)
    s = Scores(ones, ones, 200.0 + np.arange(8), 199.0 + np.arange(8), np.ones(8), ones)
    text = {"samples": 8, "seqlen": 100, "data": "stdlib"}
    evaluation = {**s.summary(), "baseline": s.baseline(), "tokens": text, "layers": layers}
    shown = said(finished(tmp_path / "t"), capsys, evaluation=evaluation)
    assert "1 (3.00e-02 ± 4e-03), 0 (1.00e-02 ± 2e-03)" in shown
