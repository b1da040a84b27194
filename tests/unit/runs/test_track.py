"""What W&B is shown, what is remembered of it, and which troubles cost no cell. No W&B process runs here."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq
import pytest
from cells import CONFIG, SITES, finished, record, rows

from sweep.compare.query.comparison import load
from sweep.config.knobs import Wandb
from sweep.core.errors import UsageError
from sweep.runs.tracking import delivery, view, wandb_connection
from sweep.runs.tracking.command import main
from sweep.runs.tracking.delivery import OFFLINE, Destination
from sweep.runs.tracking.replay import find
from sweep.runs.tracking.wandb import WandbTracker, start
from tests.harness import ROOT

TARGET = Destination("http://127.0.0.1:1", None, "mamba-scales", "grid", "abc")


# --- the view ---------------------------------------------------------------------------------------------


def test_every_finite_number_of_the_table_is_in_its_layer_and_nothing_else(tmp_path: Path) -> None:
    cell = finished(tmp_path / "grid" / "0")
    expected: dict[int, dict[str, float]] = {}
    for row in rows(cell):
        for column in view.SERIES:
            if row[column] is not None and math.isfinite(row[column]):
                expected.setdefault(row["layer"], {})[f"{row['site']}/{column}"] = row[column]
    shown = view.read(cell)
    assert shown.layers == expected
    assert "x_conv_in/sqnr_db" not in shown.layers[1]
    assert "x_conv_in/sqnr_db" in shown.layers[0]
    assert "x_conv_out/silu_gain" not in shown.layers[1]
    assert "x_conv_in/ratio" not in shown.layers[0]
    assert shown.families == sorted(SITES)
    assert shown.notes is None


def test_the_table_is_whole_with_null_for_what_is_not_finite(tmp_path: Path) -> None:
    cell = finished(tmp_path / "0")
    shown, whole = view.read(cell).rows, rows(cell)
    assert len(shown) == len(whole) == 4 * len(SITES)
    assert list(shown[0]) == pq.read_schema(cell / "scales.parquet").names
    for ours, theirs in zip(shown, whole, strict=True):
        for key, value in theirs.items():
            odd = isinstance(value, float) and not math.isfinite(value)
            assert ours[key] == (None if odd else value)
    json.dumps(shown, allow_nan=False)


def test_groups_are_averaged_in_series_and_all_kept_in_the_table(tmp_path: Path) -> None:
    cell = finished(tmp_path / "0", groups=3)
    shown = view.read(cell)
    scales = [row["scale"] for row in rows(cell) if row["layer"] == 2 and row["site"] == "x_conv_out"]
    assert len(scales) == 3
    assert shown.layers[2]["x_conv_out/scale"] == fmean(scales)
    assert len(shown.rows) == 4 * len(SITES) * 3
    assert "mean over the groups" in str(shown.notes)


def test_summary_has_mean_min_max_and_the_worst(tmp_path: Path) -> None:
    cell = finished(tmp_path / "0")
    summary = view.read(cell).summary
    part = [row for row in rows(cell) if row["site"] == "x_conv_in"]
    scales = [row["scale"] for row in part]
    finite = [row["sqnr_db"] for row in part if math.isfinite(row["sqnr_db"])]
    assert len(finite) == 3
    assert summary["x_conv_in/scale_mean"] == fmean(scales)
    assert (summary["x_conv_in/scale_min"], summary["x_conv_in/scale_max"]) == (min(scales), max(scales))
    assert (summary["x_conv_in/sqnr_db_min"], summary["x_conv_in/sqnr_db_max"]) == (min(finite), max(finite))
    assert summary["x_conv_out/silu_gain_mean"] == 0.9
    assert "x_conv_in/silu_gain_mean" not in summary
    worst = min(rows(cell), key=lambda row: row["sqnr_db"])
    assert [summary[f"worst/{k}"] for k in ("site", "layer", "sqnr_db")] == [
        worst[k] for k in ("site", "layer", "sqnr_db")
    ]
    assert summary[f"{worst['site']}/worst_layer"] == worst["layer"]
    assert summary["timings/forward_s"] == 2.0
    json.dumps(summary, allow_nan=False)


@pytest.mark.parametrize("groups", [1, 3])
def test_summary_has_the_mean_sqnr_of_the_quantized_sites_as_the_comparison_has_it(tmp_path: Path, groups: int) -> None:
    granularity = "group" if groups > 1 else "tensor"
    cell = finished(tmp_path / "0", groups=groups, config=CONFIG.to_dict() | {"granularity": granularity})
    places: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows(cell):
        if row["site"] != "x_conv_pre" and math.isfinite(row["sqnr_db"]):  # nothing is lost at one site of layer 1
            places[row["layer"], row["site"]].append(row)
    noise = {place: sum(r["n"] * r["mse"] for r in part) for place, part in places.items()}
    signal = {place: sum(r["n"] * r["mse"] * 10 ** (r["sqnr_db"] / 10) for r in part) for place, part in places.items()}
    mean = view.read(cell).summary["quantized/sqnr_db_mean"]
    assert mean == pytest.approx(fmean(10 * math.log10(signal[p] / noise[p]) for p in places), rel=1e-12)
    ((theirs,),) = load(cell).sql("SELECT avg(sqnr_db) FROM deployed WHERE isfinite(sqnr_db)")
    assert mean == pytest.approx(theirs, rel=1e-12)


def test_no_mean_sqnr_where_nothing_is_lost(tmp_path: Path) -> None:
    cell = finished(tmp_path / "0")
    table = pq.read_table(cell / "scales.parquet")
    column = table.schema.get_field_index("sqnr_db")
    pq.write_table(table.set_column(column, "sqnr_db", [[math.inf] * len(table)]), cell / "scales.parquet")
    assert not [key for key in view.read(cell).summary if key.endswith("sqnr_db_mean")]


def test_histograms_lose_their_empty_ends_only(tmp_path: Path) -> None:
    cell = finished(tmp_path / "0")
    whole = pq.read_table(cell / "histograms.parquet").to_pylist()
    for row in whole:
        counts, edges = view.read(cell).histograms[row["layer"]]["x_conv_out/values"]
        assert sum(counts) == sum(row["counts"])
        assert len(edges) == len(counts) + 1 <= 513
        assert counts[0]
        assert counts[-1]
        first = row["edges"].index(edges[0])
        assert row["edges"][first : first + len(edges)] == edges
        assert row["counts"][first : first + len(counts)] == counts


def test_evaluation_is_summed_up_and_its_layers_are_series(tmp_path: Path) -> None:
    results = {"perplexity": 3.0, "kl": math.nan, "kl_se": None, "baseline": {"perplexity": 2.5}}
    layers = [{"layer": 2, "only": {"perplexity": 2.6}, "all_but": {"perplexity": 2.9}}]
    cell = finished(tmp_path / "0")
    (cell / "run.json").write_text(json.dumps(record(cell) | {"evaluation": {**results, "layers": layers}}))
    shown = view.read(cell)
    evaluated = {key: value for key, value in shown.summary.items() if key.startswith("evaluation")}
    assert evaluated == {"evaluation/perplexity": 3.0, "evaluation/baseline/perplexity": 2.5}
    assert shown.layers[2]["evaluation/only/perplexity"] == 2.6
    assert shown.layers[2]["evaluation/all_but/perplexity"] == 2.9
    assert "evaluation" in shown.families


def test_predicted_loss_is_summed_up_by_cell_site_and_layer(tmp_path: Path) -> None:
    one = {"loss": 0.5, "loss_se": None}
    cost = {"loss": 0.75, "loss_se": 0.1, "sites": {"x_conv_out": one}, "layers": [{"layer": 2, **one}]}
    cell = finished(tmp_path / "0", groups=3)
    (cell / "run.json").write_text(json.dumps(record(cell) | {"loss": cost}))
    table = pq.read_table(cell / "scales.parquet")
    losses = [i / 8 for i in range(len(table))]
    column = table.schema.get_field_index("loss")
    pq.write_table(table.set_column(column, "loss", [losses]), cell / "scales.parquet")
    shown = view.read(cell)
    predicted = {key: value for key, value in shown.summary.items() if key.startswith("loss")}
    assert predicted == {"loss/loss": 0.75, "loss/loss_se": 0.1, "loss/sites/x_conv_out/loss": 0.5}
    assert shown.layers[2]["predicted/loss"] == 0.5
    of_groups = [row["loss"] for row in rows(cell) if row["layer"] == 2 and row["site"] == "x_conv_out"]
    assert shown.layers[2]["x_conv_out/loss"] == sum(of_groups)


def test_config_is_the_resolved_one_with_identity_and_calibration_key(tmp_path: Path) -> None:
    config = view.read(finished(tmp_path / "0")).config
    assert config.items() >= CONFIG.to_dict().items()
    assert config["calibration_key"] == "ab" * 32
    assert config["cell"] == {
        "model": "tiny",
        "method": "percentile",
        "alpha": 0.9995,
        "format": "int8",
        "granularity": "tensor",
    }
    assert config["provenance"]["tokens"]["sha256"] == "cd" * 32


# --- modes and memory -------------------------------------------------------------------------------------


def test_disabled_imports_no_wandb_and_writes_nothing(tmp_path: Path) -> None:
    program = """
import sys, pathlib
from sweep.runs.tracking import wandb as track
from sweep.compare.query.comparison import load
from sweep.config.knobs import Wandb
tracker = track.start(Wandb(mode="disabled"), pathlib.Path("."), "name", "group", {})
tracker.progress(1, 2)
tracker.results(pathlib.Path("."))
tracker.finish()
assert tracker.record is None and tracker.hint is None
assert "wandb" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("asked", "variable", "mode"),
    [
        ("auto", None, "auto"),
        ("auto", "offline", "offline"),
        ("auto", "disabled", "disabled"),
        ("auto", "nonsense", "auto"),
        ("online", "offline", "online"),
    ],
)
def test_auto_alone_listens_to_wandb_mode(
    asked: str, variable: str | None, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if variable:
        monkeypatch.setenv("WANDB_MODE", variable)
    assert wandb_connection.mode(asked) == mode


def test_wandb_writes_inside_and_the_environment_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)
    monkeypatch.setenv("WANDB_CACHE_DIR", "/elsewhere")
    before = dict(os.environ)
    with wandb_connection.inside(tmp_path):
        assert os.environ["WANDB_DATA_DIR"].startswith(str(tmp_path))
        assert os.environ["WANDB_CACHE_DIR"].startswith(str(tmp_path))
    assert dict(os.environ) == before


def test_an_attempt_keeps_its_id_until_it_ends_or_asks_something_else(tmp_path: Path) -> None:
    first = delivery.attempt(tmp_path, {"alpha": 0.5})
    assert delivery.attempt(tmp_path, {"alpha": 0.5}) == first
    other = delivery.attempt(tmp_path, {"alpha": 0.6})
    assert other != first
    delivery.deliver(tmp_path, TARGET, "http://there")
    assert delivery.attempt(tmp_path, {"alpha": 0.6}) not in (first, other)


def test_a_delivery_counts_for_its_destination_only(tmp_path: Path) -> None:
    assert delivery.delivered(tmp_path, TARGET) is None
    delivery.attempt(tmp_path, {})
    delivery.deliver(tmp_path, TARGET, "http://there")
    assert delivery.delivered(tmp_path, TARGET) == "http://there"
    for change in ({"server": OFFLINE}, {"entity": "team"}, {"project": "p"}, {"group": "g"}, {"id": "x"}):
        assert delivery.delivered(tmp_path, Destination(**{**vars(TARGET), **change})) is None


def test_a_cell_without_a_run_has_an_id_made_of_its_content_wherever_it_lies(tmp_path: Path) -> None:
    one, two = finished(tmp_path / "a" / "0", seed=0), finished(tmp_path / "a" / "1", seed=1)
    shutil.copytree(one, tmp_path / "b" / "7")
    identity = delivery.identify(record(one))
    assert identity == delivery.identify(record(tmp_path / "b" / "7"))
    assert identity != delivery.identify(record(two))
    assert delivery.identify(record(one) | {"wandb": {"id": "known"}}) == "known"


# --- troubles ---------------------------------------------------------------------------------------------


class _Broken:
    """A run whose service has died."""

    offline, id, url = True, "abc", None

    def __init__(self, directory: Path) -> None:
        self.settings = type("Settings", (), {"sync_dir": str(directory / "wandb" / "offline-run"), "mode": "offline"})
        self.finished = False
        self.reports: list[dict[str, int]] = []
        self.summary = self

    def update(self, values: dict[str, int]) -> None:
        self.reports.append(values)

    def __getattr__(self, name: str) -> Any:
        raise ConnectionResetError("the service is gone\nsecond line")

    def finish(self, exit_code: int) -> None:
        self.finished = True


def test_trouble_costs_one_warning_and_the_hint_is_to_replay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cell = finished(tmp_path / "0")
    run = _Broken(cell.resolve())
    tracker = WandbTracker(cell, run, TARGET)
    tracker.results(cell)
    tracker.results(cell)
    tracker.finish()
    assert run.finished
    assert not tracker.complete
    assert [r.message for r in caplog.records] == [
        f"W&B: the service is gone; nothing is lost, send it later with: python -m sweep.track replay {cell}"
    ]
    assert delivery.delivered(cell, TARGET) is None


def test_progress_is_reported_once_a_second_and_at_the_end(tmp_path: Path) -> None:
    run = _Broken(tmp_path.resolve())
    tracker = WandbTracker(tmp_path, run)
    for done in range(1, 101):
        tracker.progress(done, 100)
    assert run.reports[0] == {"calibration/done": 1, "calibration/samples": 100}
    assert run.reports[-1] == {"calibration/done": 100, "calibration/samples": 100}
    assert len(run.reports) <= 3


def test_gradients_are_reported_beside_the_samples_and_never_added_to_them(tmp_path: Path) -> None:
    run = _Broken(tmp_path.resolve())
    tracker = WandbTracker(tmp_path, run)
    for done in range(8):
        tracker.progress(done + 1, 8)
        tracker.differentiated(done, 7)
    told = {key: value for report in run.reports for key, value in report.items()}
    assert told == {
        "calibration/done": 8, "calibration/samples": 8,
        "calibration/gradients_done": 7, "calibration/gradients": 7,
    }  # fmt: skip
    assert {"calibration/gradients_done": 0, "calibration/gradients": 7} in run.reports  # each phase is told at once
    assert len(run.reports) <= 6


def test_no_place_to_write_is_no_reason_to_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "wandb").write_text("a file where W&B's folder should be")
    tracker = start(Wandb(mode="offline"), tmp_path, "name", "group", {})
    assert tracker.record is None
    assert len(caplog.records) == 1
    assert "not tracked" in caplog.records[0].message


# --- the command line -------------------------------------------------------------------------------------


def test_find_takes_cells_at_any_depth_once(tmp_path: Path) -> None:
    cells = [finished(tmp_path / "runs" / "a" / name) for name in ("0", "1")] + [finished(tmp_path / "runs" / "single")]
    finished(tmp_path / "runs" / "a" / "0" / "wandb" / "copy")
    assert find([tmp_path / "runs", tmp_path / "runs" / "a"]) == sorted(cells)
    assert find([cells[0]]) == [cells[0]]


def test_find_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no cell"):
        find([tmp_path])
    with pytest.raises(UsageError, match="is no directory"):
        find([tmp_path / "none"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "replay"),
        (["upload", "x"], "upload"),
        (["replay"], "DIR"),
        (["replay", "no/such/place"], "no/such/place is no directory"),
        (["replay", "."], "holds no cell"),
        (["replay", ".", "--mode", "disabled"], "disabled"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_unfinished_and_damaged_cells_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(tmp_path / "0", status="running")
    finished(tmp_path / "1", status="failed")
    truncated = finished(tmp_path / "2") / "scales.parquet"
    truncated.write_bytes(truncated.read_bytes()[:-100])
    (finished(tmp_path / "3") / "run.json").write_text("{")
    assert main(["replay", str(tmp_path), "--mode", "offline"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["skipped", "skipped", "failed", "failed"]
    assert "running" in lines[0]
    assert "2 failed, 2 skipped" in lines[4]
    assert not list(tmp_path.rglob("wandb"))


# --- a server that may not be there ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "there"),
    [
        (b"HTTP/1.0 404 Not Found\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\n\r\n", True),
        (b"SSH-2.0\r\n", True),
        (b"", True),  # it hangs up
        (None, False),  # it takes the call and says nothing
    ],
)
def test_a_server_is_there_whatever_it_says(said: bytes | None, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_connection, "CONNECT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            caller, _ = listener.accept()
            with caller:
                caller.recv(4096)
                if said is not None:
                    caller.sendall(said)

        url = "http://127.0.0.1:{1}".format(*listener.getsockname())
        if said is not None:
            threading.Thread(target=serve, daemon=True).start()
        assert wandb_connection.answers(url) is there
    assert not wandb_connection.answers(url)  # nobody listens any more


def test_a_run_that_is_not_taken_removes_no_other_run_s_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may open its run in the same folder meanwhile."""
    ours, theirs = tmp_path / "wandb/run-20260101_000000-ours", tmp_path / "wandb/run-20260101_000000-theirs"

    def init(*arguments: Any) -> Any:
        ours.mkdir(parents=True)
        theirs.mkdir()
        raise TimeoutError("no answer")

    monkeypatch.setattr(wandb_connection, "_init", init)
    monkeypatch.setattr(wandb_connection, "_refused", set())
    with pytest.raises(wandb_connection.Unreachable):
        wandb_connection.online(
            "http://127.0.0.1:9", Wandb(), tmp_path, wandb_connection.Identity("ours", "n", "g", "j"), {}
        )
    assert theirs.is_dir()
    assert not ours.exists()
