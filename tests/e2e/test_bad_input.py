"""Wrong inputs: one clear line, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.harness import ROOT, Run, command

TINY = ROOT / "sweep/models/tiny"
SMALL = ("calibration.samples=4", "calibration.seqlen=64", "calibration.folds=2")


def refused(done: subprocess.CompletedProcess[str], where: Path, *said: str) -> None:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for text in said:
        assert text in lines[0]
    runs = where / "runs"
    assert not [p for p in runs.glob("*") if p.name != "calibrations"], "left a half-written run"


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("alpha=0", ["alpha=0.0", "(0, 1]"]),
        ("alpha=1.5", ["alpha=1.5", "(0, 1]"]),
        ("alpha=nan", ["alpha=nan", "(0, 1]"]),
        ("alpha=null", ["percentile needs alpha"]),
        ("alpha=high", ["alpha", "high"]),
        ("method=percentil", ["method=percentil", "minmax, percentile", "did you mean percentile?"]),
        ("method=loss", ["method=loss", "add calibration.fisher=4"]),
        ("recipe=none.yaml", ["recipe=none.yaml: No such file", "python -m sweep.recipe"]),
        ("format=int9", ["format=int9", "int8"]),
        ("granularity=row", ["granularity=row", "tensor"]),
        ("dtype=float8", ["dtype=float8", "bfloat16"]),
        ("model=tinny", ["model=tinny", "tiny"]),
        ("data=stdlibs", ["data=stdlibs", "stdlib, text"]),
        ("data.split=test", ["data.split=test", "train, heldout"]),
        ("alhpa=0.5", ["alhpa", "did you mean alpha?"]),
        ("calibration.sample=4", ["calibration.sample", "did you mean calibration.samples?"]),
        ("calibration.samples=0", ["calibration.samples=0", "at least 1"]),
        ("calibration.samples=many", ["calibration.samples", "many"]),
        ("calibration.folds=99", ["calibration.folds=99", "calibration.samples=4"]),
        ("calibration.samples=10000000", ["windows", "calibration.samples=10000000"]),
        ("device=cuda", ["device=cuda", "device=cpu"]),
        ("device=tpu", ["device=tpu", "cpu"]),
        ("wandb.mode=on", ["wandb.mode=on", "offline"]),
        ("data=text", ["data.path=FILE_OR_FOLDER"]),
        ("wandb.tags=debug", ["wandb.tags=debug is no list", "wandb.tags=[debug]"]),
        ("wandb=online", ["is a group of knobs", "wandb.mode"]),
        ("+foo=1", ["unknown key 'foo'"]),
        ("alpha=0.9,0.99", ["add -m"]),
        ("alpha=interval(0,1)", ["add -m"]),
        ("hydra/launcher=basic", ["add -m"]),
        ("hydra.sweeper.dry_run=true", ["add -m"]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    sweep: Run, tmp_path: Path, argument: str, said: list[str]
) -> None:
    small = [a for a in SMALL if not argument.startswith(a.split("=")[0] + "=")]
    if torch.cuda.is_available() and argument == "device=cuda":
        pytest.skip("there is a CUDA device")
    refused(sweep(*small, argument), tmp_path, *said)


@pytest.mark.parametrize("stream", ["true", "false"])
def test_a_device_that_is_not_there_or_cannot_count(
    sweep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    arguments = [*SMALL, "device=cuda", f"model.stream={stream}"]
    if not torch.cuda.is_available():
        refused(sweep(*arguments), tmp_path, "device=cuda asked for", "sees no CUDA device", "device=cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("sweep.calibration.counting.find_spec", lambda name: None)
    refused(sweep(*arguments), tmp_path, "device=cuda: numba-cuda", "pip install 'numba-cuda[cu13]'")


def test_the_real_command_says_the_same(tmp_path: Path) -> None:
    refused(command(tmp_path, "sweep", "alpha=2"), tmp_path, "alpha=2.0 is outside (0, 1]")


def test_data_that_is_missing_empty_or_too_short(sweep: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00" * 99)
    for path, said in {
        "nowhere": "does not exist",
        "empty": "holds no text",
        "short.txt": "9 tokens are less than one window",
        "binary.txt": "not UTF-8",
    }.items():
        refused(sweep(*SMALL, "data=text", f"data.path={path}"), tmp_path, path, said)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    copy = tmp_path / "checkpoint"
    shutil.copytree(TINY, copy)
    return copy


def damage_missing(path: Path) -> str:
    (path / "model.safetensors").unlink()
    return "model.safetensors"


def damage_truncated(path: Path) -> str:
    whole = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    return "cannot be loaded"


def damage_no_config(path: Path) -> str:
    (path / "config.json").unlink()
    return "config.json"


def damage_config(path: Path) -> str:
    (path / "config.json").write_text("{")
    return "cannot be loaded"


def damage_shape(path: Path) -> str:
    weights = load_file(path / "model.safetensors")
    name = "backbone.layers.0.mixer.in_proj.weight"
    save_file({**weights, name: weights[name][:-1].contiguous()}, path / "model.safetensors", {"format": "pt"})
    return "in_proj.weight"


def damage_absent_key(path: Path) -> str:
    weights = load_file(path / "model.safetensors")
    del weights["backbone.layers.3.mixer.A_log"]
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    return "backbone.layers.3.mixer.A_log"


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("exploded",)


def damage_pickle(path: Path) -> str:
    (path / "model.safetensors").unlink()
    with (path / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"backbone.embeddings.weight": Bomb()}, file)
    return "could run code"


@pytest.mark.parametrize(
    "damage",
    [
        damage_missing,
        damage_truncated,
        damage_no_config,
        damage_config,
        damage_shape,
        damage_absent_key,
        damage_pickle,
    ],
)
def test_a_checkpoint_that_is_no_good(sweep: Run, tmp_path: Path, checkpoint: Path, damage: object) -> None:
    said = damage(checkpoint)  # type: ignore[operator]
    refused(sweep(*SMALL, f"model.path={checkpoint}"), tmp_path, said)
    assert not (tmp_path / "exploded").exists(), "a pickle was executed"


def test_a_nan_is_located(sweep: Run, tmp_path: Path, checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    weights["backbone.layers.2.mixer.in_proj.weight"][500, 7] = float("nan")
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    done = sweep(*SMALL, f"model.path={checkpoint}")
    refused(done, tmp_path, "layer 2", "x_conv_in", "sample 0")


def test_a_run_directory_that_cannot_be_written(sweep: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = sweep(*SMALL, "hydra.run.dir=file/run")
    refused(done, tmp_path, "file/run")


@pytest.mark.slow
def test_interrupting_ends_with_130(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sweep", "wandb.mode=disabled", "hydra.run.dir=out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    record = tmp_path / "out/run.json"
    end = time.monotonic() + 120
    while not record.exists() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert json.loads(record.read_text())["status"] == "failed"


def test_help_shows_groups_knobs_and_examples(sweep: Run) -> None:
    shown = sweep("--help")
    assert shown.returncode == 0
    for text in ("model=", "tiny", "data=", "stdlib", "alpha:", "calibration:", "folds:", "wandb:", "Examples"):
        assert text in shown.stdout
    assert shown.stdout.count("  python -m sweep") >= 3
