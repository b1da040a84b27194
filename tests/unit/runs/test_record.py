"""run.json as a RunRecord: files of this version and of earlier ones, and what is no record."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from cells import CONFIG, RECORD

from sweep.core.errors import UsageError
from sweep.core.files import write_json
from sweep.runs import record as runs
from sweep.runs.record import RecordError, RunRecord
from sweep.runs.results import CalibrationRecord, DeviceRecord, ModelRecord, Results, TokensRecord
from sweep.runs.status import Failure, RunStatus

# as the first version of the program wrote it
FIRST: dict[str, Any] = {
    "schema": 1,
    "status": "finished",
    "error": None,
    "started": "2026-11-23T11:00:00+00:00",
    "finished": "2026-11-23T11:01:00+00:00",
    "name": "tiny percentile a=0.9995 int8 tensor",
    "sweep": "2026-11-23_11-00-00",
    "config": {"model": {"name": "tiny"}, "method": "percentile", "alpha": 0.9995},
    "versions": {"sweep": "0.1.0", "torch": "2.9.1"},
    "git": {"revision": "50f2be8", "dirty": False},
    "evaluation": None,
    "wandb": {"mode": "offline", "id": "0123456789ab", "dir": "wandb/offline-run", "url": None},
    "calibration": {"key": "ab" * 32, "preimage": {"folds": 8}, "path": "runs/calibrations/x", "cached": False},
    "model": {"name": "tiny", "identity": "sha256:00", "weights": "trained", "family": "mamba2", "n_layer": 4},
    "tokens": {"sha256": "cd" * 32, "data": "stdlib", "samples": 8, "seqlen": 64, "count": 512},
    "device": {"type": "cpu", "name": "x86_64", "threads": 2},
    "timings": {"load_s": 1.0, "forward_s": 2.0, "observe_s": 0.25},
    "counts": {"tokens": 512, "values": 1000},
}


def results() -> Results:
    later = CalibrationRecord("ef" * 32, {"grouped": True}, "there", True)
    return Results(
        CalibrationRecord("ab" * 32, {"folds": 8}, "here", False, grouped=later, rescaled=later),
        ModelRecord("tiny", "sha256:00", "random", {"revision": None, "n_layer": 4}),
        TokensRecord("cd" * 32, "stdlib", 8, 64, 512, distinct=3, error_factor=1.5),
        DeviceRecord("cpu", "x86_64", 2),
        {"forward_s": 2.0},
        {"tokens": 512},
        evaluation={"kl": 0.5},
        wandb={"id": "0123"},
        trackers={"notebook": {"page": 3}},
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    record = runs.start(tmp_path / "new" / "run", runs.describe(CONFIG, "grid"))
    place = tmp_path / "new" / "run"
    assert runs.load(place) == record
    assert (record.status, record.results, record.failure, record.finished) == (RunStatus.RUNNING, None, None, None)
    done = runs.finish(place, record, results())
    assert runs.load(place) == done
    assert (done.status, done.results) == (RunStatus.FINISHED, results())
    assert done.finished
    failed = runs.fail(place, record, Failure.of(OSError(28, "No space left on device")))
    assert runs.load(place) == failed
    assert (failed.status, failed.results) == (RunStatus.FAILED, None)


@pytest.mark.parametrize("raw", [FIRST, RECORD], ids=["the first version's", "today's"])
def test_a_file_comes_back_with_nothing_but_new_keys(raw: dict[str, Any]) -> None:
    raw = raw | {"a later key": {"kept": True}}
    record = RunRecord.from_dict(raw)
    assert record.results
    assert record.results.model.facts["n_layer"] == 4
    assert record.results.tokens.distinct is None
    again = record.to_dict()
    assert again["tokens"].items() >= raw["tokens"].items()
    assert again.items() >= (raw | {"tokens": again["tokens"]}).items()
    assert all(again[key] is None for key in again.keys() - raw.keys())
    assert RunRecord.from_dict(again) == record


def test_keys_that_readers_of_earlier_versions_take_for_granted(tmp_path: Path) -> None:
    """Names, order of sections and the text of an error are what they were."""
    record = runs.start(tmp_path, runs.describe(CONFIG, "grid"))
    runs.finish(tmp_path, record, Results.from_dict(FIRST))
    assert [key for key in runs.content(tmp_path) if key not in ("recipe", "loss")] == list(FIRST)
    runs.fail(tmp_path, record, Failure.of(UsageError("no such weights")))
    failed = runs.content(tmp_path)
    assert (failed["status"], failed["error"]) == ("failed", "UsageError: no such weights")
    assert json.loads((tmp_path / "run.json").read_text()) == failed


@pytest.mark.parametrize(
    ("raw", "mendable"),
    [
        ({"error": "UsageError: no such weights"}, True),
        ({"error": "UsageErrorOfAnotherKind: x"}, False),
        ({"error": "RuntimeError: UsageError: x"}, False),
        ({"error": None}, False),
        ({"error": "ConfigError: x", "mendable": True}, True),
        ({"error": "UsageError: x", "mendable": False}, False),
    ],
)
def test_who_can_mend_a_failure(raw: dict[str, Any], mendable: bool) -> None:
    """Earlier versions wrote the error's text alone."""
    failure = RunRecord.from_dict({**FIRST, "status": "failed", **raw}).failure
    assert failure
    assert failure.mendable is mendable
    assert failure.to_dict()["error"] == str(raw["error"])  # what was written is written again


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UsageError("no such weights"), "no such weights"),
        (UsageError("UsageError: in a quote"), "UsageError: in a quote"),
        (ValueError("a bad\nnumber"), "ValueError: a bad\nnumber"),
    ],
)
def test_a_failure_is_typed_and_its_text_as_before(tmp_path: Path, error: Exception, said: str) -> None:
    failed = runs.fail(tmp_path, runs.start(tmp_path, runs.describe(CONFIG, "grid")), Failure.of(error)).failure
    assert failed == runs.load(tmp_path).failure == Failure(str(error), said == str(error), type(error).__name__)
    assert str(failed) == said
    assert runs.content(tmp_path)["error"] == f"{type(error).__name__}: {error}"


def test_little_is_enough_of_a_run_that_has_not_finished() -> None:
    record = RunRecord.from_dict({"status": "running", "started": "2026-11-23T11:00:00+00:00", "config": {}})
    assert (record.schema, record.sweep, record.versions, record.git) == (0, "", {}, None)


def damaged(*path: str, value: Any = None) -> dict[str, Any]:
    raw = copy.deepcopy(FIRST)
    *sections, last = path
    section = raw
    for name in sections:
        section = section[name]
    if value is None:
        del section[last]
    else:
        section[last] = value
    return raw


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        *((damaged(key), f"run.json lacks '{key}'") for key in ("status", "started", "config", "model", "tokens")),
        (damaged("calibration", "key"), "run.json lacks 'key'"),
        (damaged("tokens", value=[]), "run.json is no record of a run"),
        (damaged("model", value=7), "run.json is no record of a run"),
        (damaged("status", value="paused"), "status 'paused' is unknown"),
        (damaged("status", value=["finished"]), "run.json is no record of a run"),
        (damaged("schema", value=2), "run.json is of schema 2; this version reads up to 1"),
        (damaged("schema", value="two"), "run.json is no record of a run"),
        ([FIRST], "run.json is no record of a run"),
        ({}, "run.json lacks 'status'"),
    ],
)
def test_what_is_no_record_is_named(tmp_path: Path, raw: Any, message: str) -> None:
    (tmp_path / "run.json").write_text(json.dumps(raw))
    with pytest.raises(RecordError, match=message.replace("[", "\\[")):
        runs.load(tmp_path)
    assert runs.read(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", '{"status": "fin', "\x00" * 64, "null", "7"])
def test_a_torn_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RecordError, match=r"^run\.json "):
        runs.load(tmp_path)
    assert runs.read(tmp_path) is None


def test_a_file_that_is_not_there_is_no_record(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        runs.load(tmp_path)
    assert runs.read(tmp_path) is None


def test_a_number_that_json_does_not_know_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", FIRST)
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "run.json", {"kl": float("nan")})
    assert runs.content(tmp_path) == FIRST
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
