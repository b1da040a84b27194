"""`sweep.dashboard` and the server it saves to.

openwandb knows no views. So the server here is a few lines that answer the GraphQL requests that saving makes
(whose key is it, the key's entity, the project, upsertView) and nothing else, and keep what they were sent."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from synthetic import mamba, write
from wandb_runs import KEY, Server

from sweep.runs.tracking import view
from tests.harness import command, require


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError:
        require(False, "wandb-workspaces is not installed")
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    world = mamba(layers=2, size=50)
    write(tmp_path / "runs" / "grid" / "0", world, evaluation={"kl": 0.02, "kl_se": 0.001, "perplexity": 9.5})
    write(tmp_path / "runs" / "grid" / "1", world, method="minmax", evaluation={"kl": 0.004, "perplexity": 9.25})
    return tmp_path / "runs" / "grid"


PROJECT = {
    "id": "p",
    "name": "mamba-scales",
    "entityName": "someone",
    "createdAt": "2026-11-23",
    "isBenchmark": False,
    "user": None,
}


@contextmanager
def views(viewer: dict[str, Any] | None, project: bool = True) -> Iterator[tuple[dict[str, str], list[dict[str, Any]]]]:
    """The environment that leads to the server, and the requests that it took."""
    taken: list[dict[str, Any]] = []

    class Views(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = self.answer(json.loads(body)) if self.path == "/graphql" else (404, {})
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def answer(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
            taken.append(request)
            query, sent = request["query"].split(), request.get("variables", {})
            if query[:2] in (["query", "Viewer"], ["query", "GetDefaultEntity"]):
                return 200, {"data": {"viewer": viewer}}
            if query[1].startswith("ProjectInternalId("):  # a report's runs are those of a project that exists
                return 200, {"data": {"project": project and {"id": "p", "internalId": "7"}}}
            if "GetProjects" in request["query"]:
                edges = [{"cursor": "c", "node": PROJECT}] if project else []
                pages = {"endCursor": "c", "hasNextPage": False}
                return 200, {"data": {"models": {"edges": edges, "pageInfo": pages}}}
            if "upsertView(" in query:
                view = {"id": "view", "name": sent["name"], "displayName": sent["displayName"], "spec": sent["spec"]}
                return 200, {"data": {"upsertView": {"view": view, "inserted": True}}}
            return 400, {"errors": [{"message": f"unknown here: {query[:2]}"}]}

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Views) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", "WANDB_API_KEY": KEY}, taken
        server.shutdown()


def viewer(entity: str | None) -> dict[str, Any]:
    return {"id": "u", "entity": entity, "username": "u", "email": "", "flags": "{}", "teams": {"edges": []}}


def test_a_workspace_and_a_report_are_saved_with_their_panels(grid: Path, tmp_path: Path) -> None:
    with views(viewer("someone")) as (env, taken):
        done = command(tmp_path, "sweep.dashboard", "runs/grid", **env)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    report, space = (r["variables"] for r in taken if "upsertView" in r["query"])
    assert (space["entityName"], space["projectName"], space["type"]) == ("someone", "mamba-scales", "project-view")
    assert space["displayName"] == "Scales of grid"
    name = re.fullmatch("nw-(.*)-v", space["name"])
    assert name
    saved = [line for line in done.stdout.splitlines() if line.startswith("saved ")]
    where = f"{env['WANDB_BASE_URL']}/someone/mamba-scales"
    assert saved[1] == f"saved workspace: {where}?nw={name[1]}"
    assert saved[0] == f"saved report: {where}/reports/Scales-of-grid--view"

    section = json.loads(space["spec"])["section"]
    cells = [view.read(grid / n) for n in "01"]
    (runs,) = section["runSets"]
    check_runs(runs)
    sections = section["panelBankConfig"]["sections"]
    assert [s["name"].split(" ")[0] for s in sections] == ["Cost", "SQNR", "Scale", "SiLU", "Ratio"]
    assert [s["isOpen"] for s in sections] == [True, False, False, False, False]
    check_panels([p for s in sections for p in s["panels"]], cells)
    assert sum(len(s["panels"]) for s in sections if s["isOpen"]) <= 6

    assert (report["entityName"], report["projectName"], report["type"]) == ("someone", "mamba-scales", "runs")
    blocks = json.loads(report["spec"])["blocks"]
    (table,) = (b["content"] for b in blocks if b["type"] == "markdown-block")
    rows = [[c.strip() for c in line.strip("| ").split(" | ")] for line in table.splitlines()]
    assert rows[0][:2] == ["setting", "measured KL, nats per token"]
    assert [row[1] for row in rows[2:]] == ["0.004", "0.020 ± 0.001"]  # the best first
    assert "minmax" in rows[2][0]
    grids = [b["metadata"] for b in blocks if b["type"] == "panel-grid"]
    for one in grids:
        check_runs(one["runSets"][0])
    check_panels([p for g in grids for p in g["panelBankSectionConfig"]["panels"]], cells)
    assert not list(Path.home().iterdir())


def check_runs(runs: dict[str, Any]) -> None:
    """Of the group alone, the least cost first, and its columns before all others."""
    (filters,) = runs["filters"]["filters"]
    assert (filters["key"]["name"], filters["value"]) == ("group", "grid")
    (order,) = runs["sort"]["keys"]
    assert order == {"key": {"section": "summary", "name": "evaluation/kl"}, "ascending": True}
    columns, pinned = runs["runFeed"]["columnOrder"], runs["runFeed"]["columnPinned"]
    assert columns[:3] == ["run:displayName", "summary:evaluation/kl", "summary:evaluation/kl_se"]
    assert {"summary:quantized/sqnr_db_mean", "config:cell.value.method"} <= set(columns)
    assert all(pinned[column] for column in columns)


def check_panels(panels: list[dict[str, Any]], cells: list[view.View]) -> None:
    """Every panel shows what a cell logged, and the quantized sites in the order of the data flow."""
    of = {kind: [p["config"] for p in panels if p["viewType"] == kind] for kind in {p["viewType"] for p in panels}}
    logged = {key for cell in cells for values in cell.layers.values() for key in values}
    summary = {f"summary:{key}" for cell in cells for key in cell.summary}
    lines = of.pop("Run History Line Plot")
    assert {line["xAxis"] for line in lines} == {"layer"}
    assert {key for line in lines for key in line["metrics"]} <= logged
    sqnr = [key.split("/")[0] for line in lines for key in line["metrics"] if key.endswith("/sqnr_db")]
    assert sqnr[:3] == ["in_proj_in", "x_conv_in", "x_conv_out"]
    assert len(sqnr) == 8
    bars = {key.replace("summary_metrics.", "summary:") for bar in of.pop("Bar Chart") for key in bar["metrics"]}
    assert bars == {"summary:evaluation/kl", "summary:evaluation/perplexity"} <= summary
    (scatter,) = of.pop("Scatter Plot")
    assert (scatter["xAxis"], scatter["yAxis"]) == ("summary:quantized/sqnr_db_mean", "summary:evaluation/kl")
    assert scatter["yAxisLogScale"]
    (parallel,) = of.pop("Parallel Coordinates Plot")
    axes = [column["accessor"] for column in parallel["columns"]]
    assert axes[:2] == ["config:cell.value.method", "config:cell.value.alpha"]
    assert axes[-1] == "summary:evaluation/kl"
    assert set(axes[2:]) <= summary
    (importance,) = of.pop("Parameter Importance")
    assert importance["targetKey"] == "evaluation/kl"
    assert not of


def test_a_project_without_runs_is_said_in_one_line(grid: Path, tmp_path: Path) -> None:
    with views(viewer("someone"), project=False) as (env, _):
        done = command(tmp_path, "sweep.dashboard", "runs/grid", **env)
    assert done.returncode == 2
    where = "project someone/mamba-scales is not at .*: no run was sent there"
    assert re.fullmatch(rf"error: {where}; python -m sweep.track replay runs/grid sends them\n", done.stderr)


def test_without_a_key_it_is_built_and_not_saved(grid: Path, tmp_path: Path) -> None:
    done = command(tmp_path, "sweep.dashboard", "runs/grid")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Scale by layer: 11 panels, closed" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("not saved: no W&B key is configured")
    done = command(tmp_path, "sweep.dashboard", "runs/grid", WANDB_MODE="online")
    assert done.returncode == 2
    assert re.fullmatch(r"error: W&B: no key for \S+: run `wandb login` or set WANDB_API_KEY\n", done.stderr)


@pytest.mark.parametrize(
    ("account", "words"),
    [
        (None, "does not accept the key: invalid credentials: .*"),
        (viewer(None), r"does not tell your account \(the key has none\); name it with --entity"),
    ],
)
def test_a_key_of_nobody_is_said_in_one_line(
    grid: Path, tmp_path: Path, account: dict[str, Any] | None, words: str
) -> None:
    with views(account) as (env, taken):
        done = command(tmp_path, "sweep.dashboard", "runs/grid", **env)
    assert done.returncode == 2
    assert re.fullmatch(rf"error: W&B: {env['WANDB_BASE_URL']} {words}\n", done.stderr)
    assert not [r for r in taken if "upsertView" in r["query"]]


def test_a_server_that_does_not_answer_is_said_in_one_line(grid: Path, tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"  # discard
    done = command(
        tmp_path, "sweep.dashboard", "runs/grid", "--entity", "someone", WANDB_BASE_URL=nobody, WANDB_API_KEY=KEY
    )
    assert done.returncode == 2
    assert done.stderr == f"error: W&B: {nobody} does not answer; --no-save builds the workspace without it\n"


def test_a_server_that_knows_no_views_is_said_in_one_line(server: Server, grid: Path, tmp_path: Path) -> None:
    done = command(tmp_path, "sweep.dashboard", "runs/grid", "--entity", "default", **server.env)
    assert done.returncode == 2
    assert re.fullmatch(rf"error: {server.env['WANDB_BASE_URL']} did not take the report: .+\n", done.stderr)
