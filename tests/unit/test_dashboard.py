"""The workspace of a sweep: panels for what its cells logged and for nothing else, saved only with a key."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from synthetic import mamba, write

from sweep.runs.tracking import view, wandb_dashboard
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

    monkeypatch.setattr(workspaces, "Workspace", Workspace)
    return made


def test_every_panel_shows_what_a_cell_logged(
    sweep: Path, built: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_dashboard.main([str(sweep)]) == 0
    out = capsys.readouterr().out
    (space,) = built
    views = [view.read(sweep / n) for n in "01"]
    logged = {key for v in views for values in v.layers.values() for key in values}
    summary = {key for v in views for key in v.summary}
    names = [s.name.split(" ")[0] for s in space.sections]
    assert names == ["Summary", "Scale", "SQNR", "SiLU", "Ratio"]
    bars, lines = space.sections[0].panels, [p for s in space.sections[1:] for p in s.panels]
    shown = {p.metrics[0].name for p in bars}
    assert shown <= summary
    assert {"worst/sqnr_db", "evaluation/perplexity", "x_conv_out/silu_gain_mean"} <= shown
    assert "evaluation/kl" not in shown
    wanted = {key for key in logged if key.rsplit("/", 1)[1] in ("scale", "sqnr_db", "silu_gain", "ratio")}
    assert {p.y[0] for p in lines} == wanted
    assert all(p.x.name == "layer" for p in lines)
    assert {p.y[0].split("/")[1] for p in lines if p.log_y} == {"scale"}
    assert all(metric in out for metric in wanted)
    assert "not saved" in out
    assert not space.saved


def test_what_would_be_sent(sweep: Path, built: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's own description of the view: panels survive it, and it filters on the sweep's group."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_dashboard.main([str(sweep)]) == 0
    spec = json.loads(built[0]._to_model().model_dump_json(by_alias=True))["spec"]["section"]
    (filters,) = spec["runSets"][0]["filters"]["filters"]
    assert (filters["key"]["name"], filters["value"]) == ("group", "grid")
    kinds = [p["viewType"] for s in spec["panelBankConfig"]["sections"] for p in s["panels"]]
    assert set(kinds) == {"Bar Chart", "Run History Line Plot"}
    assert len(kinds) == sum(len(s.panels) for s in built[0].sections)


def test_columns_that_no_cell_logged_have_no_section(sweep: Path) -> None:
    shown = view.read(sweep / "0")
    for values in shown.layers.values():
        for key in [k for k in values if k.endswith(("ratio", "silu_gain"))]:
            del values[key]
    assert [h.split(" ")[0] for h in wandb_dashboard.sections([shown])] == ["Summary", "Scale", "SQNR"]


def test_saved_with_a_key_and_refused_in_one_line(
    sweep: Path, built: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_dashboard, "_server", lambda directory: "https://api.wandb.ai")
    assert wandb_dashboard.main([str(sweep), "--entity", "team", "--project", "p"]) == 0
    assert built[0].saved
    assert (built[0].entity, built[0].project) == ("team", "p")
    assert "saved: https://there/view" in capsys.readouterr().out

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
