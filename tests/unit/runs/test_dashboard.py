"""The workspace of a sweep: panels for what its cells logged and for nothing else, saved only with a key."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from synthetic import mamba, write

from sweep.runs.tracking import view, wandb_dashboard
from sweep.runs.tracking import wandb_panels as panels
from sweep.runs.tracking.view import View
from tests.harness import require


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError:
        require(False, "wandb-workspaces is not installed")
    world = mamba(layers=3, size=100)
    write(tmp_path / "grid" / "0", world)
    write(tmp_path / "grid" / "1", world, method="minmax", evaluation={"perplexity": 9.0})
    write(tmp_path / "grid" / "2", world, status="failed", error="boom")
    return tmp_path / "grid"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every workspace that is made; `saved` tells whether it was saved, by a stand-in for the network."""
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as workspaces

    made: list[Any] = []

    class Workspace(workspaces.Workspace):
        saved = False

        def __init__(self, *a: Any, **k: Any) -> None:
            super().__init__(*a, **k)
            made.append(self)

        def save(self) -> Any:
            type(self).saved = True
            return self

        @property
        def url(self) -> str:
            return "https://there/view"

    class Report(reports.Report):
        save = Workspace.save
        url = Workspace.url

    monkeypatch.setattr(workspaces, "Workspace", Workspace)
    monkeypatch.setattr(reports, "Report", Report)
    return made


def test_cost_comes_first_and_every_panel_shows_what_a_cell_logged(
    sweep: Path, built: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_dashboard.main([str(sweep)]) == 0
    out = capsys.readouterr().out
    (space,) = built
    views = [view.read(sweep / n) for n in "01"]
    logged = {key for v in views for values in v.layers.values() for key in values}
    assert [s.name.split(" ")[0] for s in space.sections] == ["Cost", "SQNR", "Scale", "SiLU", "Ratio"]
    assert [s.is_open for s in space.sections] == [True, False, False, False, False]
    first = [type(panel).__name__ for panel in space.sections[0].panels]
    assert first == ["BarPlot", "ParallelCoordinatesPlot", "ParameterImportancePlot", "BarPlot"]
    lines = [p for s in space.sections[1:] for p in s.panels]
    assert {p.y[0] for p in lines} <= logged
    assert all(p.x.name == "layer" for p in lines)
    assert {p.y[0].split("/")[1] for p in lines if p.log_y} == {"scale"}
    assert all(panel.title in out for panel in lines)
    assert "not saved" in out
    assert not space.saved


def viewed(settings: dict[str, dict[str, float]]) -> list[View]:
    """Views of runs that differ in their method, with a summary each."""
    return [
        View({"cell": {**dict.fromkeys(view.IDENTITY, "x"), "method": name}}, [], {}, {}, summary, [], [], None)
        for name, summary in settings.items()
    ]


def test_runs_are_ranked_by_the_best_measure_that_all_of_them_share() -> None:
    sqnr, predicted, measured = panels.MEAN_SQNR, panels.PREDICTED, panels.KL
    one = {"a": {sqnr: 20.0, predicted: 0.2, measured: 0.3}, "b": {sqnr: 30.0, predicted: 0.1}}
    assert panels.cost(viewed(one)) == predicted
    one["b"][measured] = 0.4
    assert panels.cost(viewed(one)) == measured
    assert panels.cost(viewed({"a": {sqnr: 1.0}, "b": {sqnr: 2.0, predicted: 0.1}})) == sqnr
    most = {name: {sqnr: 20.0, measured: i / 10} for i, name in enumerate("abc", 1)}
    assert panels.cost(viewed({**most, "d": {sqnr: 30.0}})) == measured  # whoever was not evaluated beside them
    assert panels.cost(viewed({**most, **{name: {sqnr: 30.0} for name in "defg"}})) == sqnr
    rows = panels.ranking(viewed({**most, "d": {sqnr: 30.0}}), list("abcd")).splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| a", "| b", "| c", "| d"]
    most["a"][f"{measured}_se"] = 0.0123
    assert "| 0.10 ± 0.01 |" in panels.ranking(viewed(most), list("abc"))
    assert panels.cost(viewed({"a": {panels.WORST_SQNR: 1.0}, "b": {sqnr: 2.0}})) == panels.WORST_SQNR
    assert not any(map(panels.ascending, (sqnr, panels.WORST_SQNR)))
    shown = panels.columns(viewed(one))
    assert shown == [
        "run:displayName",
        *(f"summary:{k}" for k in (measured, predicted, sqnr)),
        "config:cell.value.method",
    ]
    rows = panels.ranking(viewed(one), ["first", "se|cond"]).splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| first", "| se\\|cond"]
    del one["b"][measured], one["a"][measured]
    rows = panels.ranking(viewed(one), ["first", "second"]).splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| second", "| first"]


def test_predicted_loss_has_panels_where_it_was_logged() -> None:
    views = viewed(
        {"a": {panels.MEAN_SQNR: 20.0, panels.PREDICTED: 0.2}, "b": {panels.MEAN_SQNR: 25.0, panels.PREDICTED: 0.1}}
    )
    for v in views:
        v.rows.extend({"site": site} for site in ("x_conv_pre", "x_conv_out"))
        v.layers[0] = {"predicted/loss": 0.2, "x_conv_out/loss": 0.2, "x_conv_pre/loss": 0.0}
    cost, layers = panels.sections(views)
    assert [type(p).__name__ for p in cost.panels] == ["Bar", "Scatter", "Parallel", "Importance"]
    assert [p.title for p in layers.panels] == ["all quantized sites", "x_conv_out"]  # nothing quantizes x_conv_pre
    assert layers.is_open


def test_errors_over_samples_have_panels_where_a_tolerance_stopped_a_calibration() -> None:
    views = viewed({"a": {panels.PREDICTED: 0.2}, "b": {panels.PREDICTED: 0.1}})
    assert "Calibration" not in [s.heading for s in panels.sections(views)]
    looks = [{"samples": 64, "tolerance/settled": 0.5}, {"layer": 0, "until/error after 64 samples": 0.1}]
    views[1].looks.extend(looks)
    (line,) = panels.sections(views)[-1].panels
    assert isinstance(line, panels.Line)
    assert (line.metric, line.over) == ("tolerance/settled", "samples")


def test_columns_that_no_cell_logged_have_no_section(sweep: Path) -> None:
    shown = view.read(sweep / "0")
    for values in shown.layers.values():
        for key in [k for k in values if k.endswith(("ratio", "silu_gain"))]:
            del values[key]
    assert [s.heading.split(" ")[0] for s in panels.sections([shown])] == ["Cost", "SQNR", "Scale"]


def test_saved_with_a_key_and_refused_in_one_line(
    sweep: Path, built: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_dashboard, "_server", lambda directory: "https://api.wandb.ai")
    assert wandb_dashboard.main([str(sweep), "--entity", "team", "--project", "p"]) == 0
    assert built[0].saved
    assert (built[0].entity, built[0].project) == ("team", "p")
    assert "saved workspace: https://there/view" in capsys.readouterr().out

    def refuse(self: Any) -> None:
        raise RuntimeError("permission denied\nsecond line")

    monkeypatch.setattr(type(built[0]), "save", refuse)
    assert wandb_dashboard.main([str(sweep), "--entity", "team"]) == 2
    assert capsys.readouterr().err == "error: https://api.wandb.ai did not take the workspace: permission denied\n"
    assert wandb_dashboard.main([str(sweep), "--no-save"]) == 0


def test_user_errors_are_one_line(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for arguments, words in (([str(tmp_path / "no")], "no such directory"), ([str(sweep / "2")], "none of 1 cells")):
        assert wandb_dashboard.main(arguments) == 2
        assert re.fullmatch(rf"error: .*{words}.*\n", capsys.readouterr().err)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    assert wandb_dashboard.main([str(sweep)]) == 2
    assert re.fullmatch(r"error: .*pip install 'mamba-scale-sweep\[dashboard\]'\n", capsys.readouterr().err)
