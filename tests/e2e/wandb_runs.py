"""Reading back what W&B was told: its own offline log, and the data base of a server on loopback."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cells import record, rows
from wandb.util import get_core_path

from sweep.runs.tracking import view
from tests.harness import ROOT, require

KEY = "local" + "0" * 40


# --- the offline log --------------------------------------------------------------------------------------


@dataclass
class Log:
    """A transaction log, as `wandb leet inspect` prints it; nested keys are joined by dots."""

    run: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None  # None where the run did not end


def inspect(place: Path) -> Log:
    # what `wandb leet inspect --json` starts when it has imported wandb
    (log_file,) = place.glob("*.wandb")
    inspecting = "leet", "inspect", "--no-observability", "--json", "--run-file", str(log_file), str(place)
    command = [get_core_path(), *inspecting]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=True, timeout=120)
    log = Log()
    for line in done.stdout.splitlines():
        entry = json.loads(line)
        kind = entry["type"]
        content = entry.get(kind, {})
        if kind == "run":
            log.run = content
            log.config |= content["config"]["update"]
        elif kind in ("config", "summary"):
            getattr(log, kind).update(content.get("update", {}))
        elif kind == "history":
            log.history.append(content["item"])
        elif kind == "metric":
            log.metrics[content.get("glob_name") or content["name"]] = content
        elif kind == "artifact":
            log.artifacts.append(content)
        elif kind == "exit":
            log.exit_code = content.get("exit_code", 0)
    return log


def offline_runs(cell: Path) -> list[Path]:
    return sorted((cell / "wandb").glob("offline-run-*"))


def assert_tells_all(log: Log, cell: Path) -> None:
    """The log has every layer once, with exactly the numbers of the cell's table, and everything else."""
    shown = view.read(cell)
    layers = [item for item in log.history if "layer" in item]
    assert [item["layer"] for item in layers] == [item["_step"] for item in layers] == list(shown.layers)
    table = rows(cell)
    for item in layers:
        for site in {row["site"] for row in table}:
            found = [row for row in table if (row["layer"], row["site"]) == (item["layer"], site)]
            assert item[f"{site}/scale"] == sum(row["scale"] for row in found) / len(found)
        series = {key: value for key, value in item.items() if "/" in key and "/values." not in key}
        assert series == shown.layers[item["layer"]]
        for key, (counts, edges) in shown.histograms[item["layer"]].items():
            assert item[f"{key}._type"] == "histogram"
            assert item[f"{key}.values"] == counts
            assert item[f"{key}.bins"] == edges
    for family in shown.families:
        assert log.metrics[f"{family}/*"]["step_metric"] == "layer"
    assert log.summary.items() >= shown.summary.items()
    assert log.config["calibration_key"] == record(cell)["calibration"]["key"]
    assert log.history[-1]["scales.nrows"] == len(table)
    held = {part["path"] for artifact in log.artifacts for part in artifact["manifest"]["contents"]}
    assert {"run.json", "scales.parquet", "histograms.parquet"} <= held
    assert log.exit_code == 0


# --- a server ---------------------------------------------------------------------------------------------


# openwandb's own command, with the cheapest of bcrypt's hashes: a request's key is checked, else for 0.3 s
SERVE = """
import bcrypt, functools
bcrypt.gensalt = functools.partial(bcrypt.gensalt, 4)
from openwandb.cli import main
main()
"""


class Server:
    """openwandb on loopback: a server that W&B's own client takes for W&B's."""

    def __init__(self, data: Path) -> None:
        missing = "openwandb, a W&B-compatible server, is not installed: pip install openwandb"
        require(importlib.util.find_spec("openwandb"), missing)
        self._data, self.port = data, free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.env = {"WANDB_BASE_URL": f"http://127.0.0.1:{self.port}", "WANDB_API_KEY": KEY}

    def start(self) -> None:
        where = "--host", "127.0.0.1", "--port", str(self.port), "--data-dir", str(self._data)
        command = [sys.executable, "-c", SERVE, "serve", *where]
        self._data.mkdir(parents=True, exist_ok=True)
        with (self._data / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "HOME": str(self._data)}
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(self.env["WANDB_BASE_URL"], timeout=5).close()
                return
            except urllib.error.HTTPError:
                return
            except OSError:
                assert self._process.poll() is None, (self._data / "server.log").read_text()
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.1)

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def ask(self, query: str, *values: Any) -> list[sqlite3.Row]:
        connection = sqlite3.connect(f"file:{self._data / 'openwandb.db'}?mode=ro", uri=True)
        connection.row_factory = sqlite3.Row
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()

    def run(self, identity: str) -> sqlite3.Row:
        (found,) = self.ask("select * from runs where run_id = ?", identity)
        return found

    def history(self, identity: str) -> list[dict[str, Any]]:
        """The steps that arrived; a step that arrived twice is there twice."""
        path = self.files(identity) / "wandb-history.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines() if line]

    def files(self, identity: str) -> Path:
        """The directory of the run's files."""
        (path,) = self._data.glob(f"files/*/*/{identity}")
        return path

    def assert_has_all(self, cell: Path, identity: str) -> None:
        """The run arrived, with exactly the numbers of the cell's table."""
        run, shown = self.run(identity), view.read(cell)
        assert run["state"] == "finished"
        expected = {(key, layer, value) for layer, series in shown.layers.items() for key, value in series.items()}
        expected |= {("layer", layer, float(layer)) for layer in shown.layers}
        arrived = {tuple(row) for row in self.ask("select key, step, value from metrics where run_id = ?", identity)}
        assert arrived == expected
        summary = json.loads(run["summary_json"])
        assert summary.items() >= shown.summary.items()
        config = {key: entry["value"] for key, entry in json.loads(run["config_json"]).items()}
        assert config["calibration_key"] == record(cell)["calibration"]["key"]
        assert config["cell"] == shown.config["cell"]
        steps = {metric.get("2"): metric.get("5") for metric in config["_wandb"]["m"]}  # glob → its step metric
        assert {f"{family}/*" for family in shown.families} <= {glob for glob, step in steps.items() if step}
        history = self.history(identity)
        for layer, histograms in shown.histograms.items():
            for key, (counts, edges) in histograms.items():
                found = [step[key] for step in history if step["_step"] == layer]
                assert found
                assert all(f == {"_type": "histogram", "values": counts, "bins": edges} for f in found)
        kinds = {row["artifact_type"]: row for row in self.ask("select * from artifacts where run_id = ?", identity)}
        assert kinds["cell"]["name"] == f"cell-{identity}"
        (table,) = self._data.glob(f"files/*/*/{identity}/media/table/scales_*.table.json")
        content = json.loads(table.read_text())
        assert content["data"] == [list(row.values()) for row in shown.rows]
        assert content["columns"] == list(shown.rows[0])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- a cell that dies -------------------------------------------------------------------------------------


def die_after(layers: int, cell: Path, env: dict[str, str], wait: float = 1.5) -> None:
    """Track a cell in a process of its own that is killed (-9) when so many layers were logged and flushed."""
    program = textwrap.dedent(
        f"""
        import json, os, pathlib, signal, time, wandb
        from sweep.core.files import write_json
        from sweep.runs.tracking import wandb as track
        from sweep.config.knobs import Wandb
        from wandb.sdk.wandb_run import Run

        cell = pathlib.Path({str(cell)!r})
        record = json.loads((cell / "run.json").read_text())
        tracker = track.start(Wandb(), cell, record["name"], record["sweep"], record["config"])
        tracker.progress(8, 8)
        write_json(cell / "run.json", record | {{"wandb": tracker.record}})
        log = Run.log

        def dying(self, row, step, commit):
            if step == {layers}:
                time.sleep({wait})
                os.kill(os.getpid(), signal.SIGKILL)
            log(self, row, step=step, commit=commit)

        Run.log = dying
        tracker.results(cell)
        """
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
