"""`sweep.dashboard` and the server it saves to.

openwandb knows no views. So the server here is a few lines that answer the three GraphQL requests that saving makes
(whose key is it, the key's entity, upsertView) and nothing else, and keep what they were sent."""

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
    write(tmp_path / "runs" / "grid" / "0", mamba(layers=2, size=50))
    return tmp_path / "runs" / "grid"


@contextmanager
def views(viewer: dict[str, Any] | None) -> Iterator[tuple[dict[str, str], list[dict[str, Any]]]]:
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
            if "upsertView(" in query:
                return 200, {"data": {"upsertView": {"view": {"id": "view", "name": sent["name"]}, "inserted": True}}}
            return 400, {"errors": [{"message": f"unknown here: {query[:2]}"}]}

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Views) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", "WANDB_API_KEY": KEY}, taken
        server.shutdown()


def viewer(entity: str | None) -> dict[str, Any]:
    return {"id": "u", "entity": entity, "username": "u", "email": "", "flags": "{}", "teams": {"edges": []}}


def test_a_workspace_is_saved_with_its_panels(grid: Path, tmp_path: Path) -> None:
    with views(viewer("someone")) as (env, taken):
        done = command(tmp_path, "sweep.dashboard", "runs/grid", **env)
    assert (done.returncode, done.stderr) == (0, "")
    (sent,) = (r["variables"] for r in taken if "upsertView" in r["query"])
    assert (sent["entityName"], sent["projectName"], sent["type"]) == ("someone", "mamba-scales", "project-view")
    assert sent["displayName"] == "Scales of grid"
    name = re.fullmatch("nw-(.*)-v", sent["name"])
    assert name
    assert done.stdout.endswith(f"saved: {env['WANDB_BASE_URL']}/someone/mamba-scales?nw={name[1]}\n")

    section = json.loads(sent["spec"])["section"]
    (filters,) = section["runSets"][0]["filters"]["filters"]
    assert (filters["key"]["name"], filters["value"]) == ("group", "grid")
    panels = [p for s in section["panelBankConfig"]["sections"] for p in s["panels"]]
    lines = [p["config"] for p in panels if p["viewType"] == "Run History Line Plot"]
    bars = [p["config"] for p in panels if p["viewType"] == "Bar Chart"]
    assert len(lines) + len(bars) == len(panels)
    cell = view.read(grid / "0")
    logged = {key for values in cell.layers.values() for key in values}
    columns = ("scale", "sqnr_db", "silu_gain", "ratio")
    assert {key for line in lines for key in line["metrics"]} == {k for k in logged if k.split("/")[1] in columns}
    assert {line["xAxis"] for line in lines} == {"layer"}
    shown = {key.removeprefix("summary_metrics.") for bar in bars for key in bar["metrics"]}
    assert {"worst/sqnr_db", "x_conv_out/silu_gain_mean"} <= shown <= set(cell.summary)
    assert not list(Path.home().iterdir())


def test_without_a_key_it_is_built_and_not_saved(grid: Path, tmp_path: Path) -> None:
    done = command(tmp_path, "sweep.dashboard", "runs/grid")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Scale by layer: 11 panels" in done.stdout
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
    assert re.fullmatch(rf"error: {server.env['WANDB_BASE_URL']} did not take the workspace: .+\n", done.stderr)
