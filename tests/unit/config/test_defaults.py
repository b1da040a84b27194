"""What the plain command means on this machine: device, number format and text, where nothing was said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cells import finished, record

from sweep.config.config import Config
from sweep.config.knobs import Data, Model
from sweep.models import defaults
from sweep.runs.tracking import view
from tests.harness import Run

RANDOM = ("model=130m", "model.weights=random")
NO_CUDA = "sees no CUDA device here: computing on the CPU, in float32"


def composed(sweep: Run, *arguments: str) -> dict[str, Any]:
    done = sweep("--cfg", "job", *arguments)
    assert done.returncode == 0, done.stderr
    return dict(yaml.safe_load(done.stdout))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.mark.parametrize(
    ("arguments", "data"),
    [
        ((), "stdlib"),
        (("model=130m",), "pile"),
        (("model=8b",), "pile"),
        (("model=mamba1-2.8b",), "pile"),
        (("model=hf", "model.name=a/b"), "stdlib"),
        (("model=2.7b", "data=c4"), "c4"),
        (("data=c4", "model=2.7b"), "c4"),
        (("model=2.7b", "data=stdlib"), "stdlib"),
        (("model=tiny", "data=pile"), "pile"),
        (RANDOM, "stdlib"),
        ((*RANDOM, "data=pile"), "pile"),
        (("model=370m", "model.path=copy"), "pile"),
    ],
)
def test_the_text_is_what_the_models_field_calibrates_on(
    sweep: Run, no_cuda: None, arguments: tuple[str, ...], data: str
) -> None:
    settled = composed(sweep, *arguments)
    assert settled["data"]["name"] == data
    assert (settled["device"], settled["dtype"]) == ("cpu", "float32")
    assert "data" not in settled["model"]


def test_single_values_of_data_win_over_the_models_text(sweep: Run) -> None:
    data = composed(sweep, "model=130m", "data.path=copy.jsonl", "data.limit=7")["data"]
    assert (data["name"], data["path"], data["limit"], data["cut"]) == ("pile", "copy.jsonl", 7, "texts")


@pytest.mark.parametrize(
    ("asked", "resolved"),
    [
        ((), ("cuda", "bfloat16")),
        (("dtype=auto",), ("cuda", "bfloat16")),
        (("dtype=float32",), ("cuda", "float32")),
        (("device=cpu",), ("cpu", "float32")),
        (("device=cuda:1",), ("cuda:1", "bfloat16")),
    ],
)
def test_a_cuda_device_is_taken_where_there_is_one(
    sweep: Run, cuda: None, asked: tuple[str, ...], resolved: tuple[str, str]
) -> None:
    settled = composed(sweep, *RANDOM, *asked)
    assert (settled["device"], settled["dtype"]) == resolved


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_on_cuda_the_format_is_the_published_one(tmp_path: Path, cuda: None, file: str, dtype: str) -> None:
    from safetensors.torch import save_file

    (tmp_path / "config.json").write_text('{"model_type": "mamba2", "hidden_size": 9}')
    tensors = {"large": torch.zeros(9, 9, dtype=getattr(torch, dtype)), "A_log": torch.zeros(3)}
    if file == "model.safetensors":
        save_file(tensors, tmp_path / file)
    else:
        torch.save(tensors, tmp_path / file)
    model, text = Model("local", str(tmp_path)), Data("stdlib")
    there = defaults.settled(Config(model, text, device="auto", dtype="default"))
    assert (there.device, there.dtype) == ("cuda", dtype)
    here = defaults.settled(Config(model, text, device="cpu", dtype="default"))
    assert here.dtype == "float32"


def test_a_checkpoint_out_of_reach_is_the_reason_for_an_open_format(sweep: Run, cuda: None, tmp_path: Path) -> None:
    shown = sweep("--cfg", "job", "model=local", f"model.path={tmp_path / 'nowhere'}", "data=stdlib").stdout
    assert yaml.safe_load(shown)["dtype"] == "default"
    assert "# dtype: default, since the checkpoint decides and cannot be read: model.path=" in shown.splitlines()[-1]


def test_a_plan_shows_what_was_resolved_cell_by_cell(sweep: Run, cuda: None) -> None:
    done = sweep("-m", "model.weights=random", "model=130m,370m", "device=auto,cpu", "hydra.sweeper.dry_run=true")
    assert done.returncode == 0, done.stderr
    for name in ("130m-random-stdlib", "370m-random-stdlib"):
        lines = [line for line in done.stdout.splitlines() if name in line]
        assert any("cuda bfloat16" in line for line in lines)
        assert any("cpu float32" in line for line in lines)


def test_a_run_records_and_wandb_is_shown_what_was_resolved(sweep: Run, no_cuda: None, tmp_path: Path) -> None:
    small = ("calibration.samples=2", "calibration.seqlen=16", "calibration.batch_size=2", "hydra.run.dir=out")
    done = sweep(*small)
    assert done.returncode == 0, done.stderr
    for config in (record(tmp_path / "out")["config"], view.read(tmp_path / "out").config):
        assert (config["device"], config["dtype"], config["data"]["name"]) == ("cpu", "float32", "stdlib")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_wandb_is_shown_the_device_of_a_run_on_one(tmp_path: Path, cuda: None, dtype: str) -> None:
    settled = defaults.settled(
        Config(Model("x", repo="a/b", weights="random"), Data("stdlib"), device="auto", dtype="default")
    )
    config = replace(settled, dtype=dtype).to_dict()
    shown = view.read(finished(tmp_path / "0", config=config)).config
    assert (shown["device"], shown["dtype"]) == ("cuda", dtype)
    assert settled.dtype == "bfloat16"


def test_weights_that_vary_over_a_grid_take_their_own_text(sweep: Run, no_cuda: None) -> None:
    done = sweep("-m", "model=130m", "model.weights=random", "data.limit=null,900", "hydra.sweeper.dry_run=true")
    assert done.stdout.count("130m-random-stdlib-512x512") == 1, done.stdout + done.stderr


@pytest.mark.parametrize("mode", [(), ("-m",)])
def test_a_machine_without_cuda_says_so_once(sweep: Run, no_cuda: None, mode: tuple[str, ...]) -> None:
    small = ("calibration.samples=2", "calibration.seqlen=16", "calibration.batch_size=2")
    done = sweep(*mode, *small, *(("alpha=0.9,0.99",) if mode else ()))
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count(NO_CUDA) == 1
    assert NO_CUDA not in sweep(*mode, *small, "device=cpu", "method=minmax").stdout


def test_without_a_network_both_ways_out_are_named(sweep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    done = sweep(*RANDOM, "data=pile")
    assert done.returncode == 2
    assert "data.path" in done.stderr
    assert "data=stdlib" in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error:")]) == 1
