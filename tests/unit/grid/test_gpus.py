"""What each job of a grid is given of GPUs, counted on a machine that need not have any."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cells import CONFIG
from joblib import Parallel, delayed
from omegaconf import DictConfig, OmegaConf

from sweep.core.store_key import Key
from sweep.grid import gpus
from sweep.grid.plan import Cell, Plan
from tests.harness import ROOT, Run

RANDOM = ("model=130m", "model.weights=random")


def plan(*devices: str) -> Plan:
    cells = (
        Cell(number, (), replace(CONFIG, device=device, dtype="float32"), Key("x", {"n": number}), False, str(number))
        for number, device in enumerate(devices)
    )
    return Plan(tuple(cells))


def launcher(name: str, **given: Any) -> DictConfig:
    """conf/hydra/launcher/NAME.yaml over what submitit's own launcher adds to it, with single values changed."""
    loaded = OmegaConf.load(ROOT / "conf/hydra/launcher" / f"{name}.yaml")
    loaded.pop("defaults", None)
    own = {"gres": None, "gpus_per_task": None, "additional_parameters": {}} if name == "slurm" else {}
    found = OmegaConf.merge(own, loaded, given)
    assert isinstance(found, DictConfig)
    return found


@pytest.mark.parametrize(
    ("devices", "given", "asked", "said"),
    [
        (("cuda",), {}, 1, "each job asks Slurm for 1 GPU"),
        (("cpu", "cuda:0"), {}, 1, "1 GPU "),
        (("cpu",), {}, None, None),
        (("cuda",), {"gpus_per_node": 2}, 2, "2 GPUs"),
        (("cuda",), {"gpus_per_node": 0}, None, "0 GPUs"),
        (("cpu",), {"gpus_per_node": 1}, 1, None),
        (("cuda",), {"gres": "gpu:a100:1"}, None, "gres=gpu:a100:1"),
        (("cuda",), {"gpus_per_task": 1}, None, "gpus_per_task=1"),
        (("cuda",), {"additional_parameters": {"gpus": 1}}, None, "gpus=1"),
    ],
)
def test_slurm_is_asked_for_a_gpu_where_jobs_compute_on_one(
    devices: tuple[str, ...], given: dict[str, Any], asked: int | None, said: str | None
) -> None:
    config = launcher("slurm", **given)
    line = gpus.share(config, plan(*devices))
    assert config.gpus_per_node == asked
    assert line is None if said is None else said in str(line)
    assert not gpus.local(config)


@pytest.mark.parametrize(
    ("devices", "given", "asked"),
    [(("cuda",), None, 1), (("cpu",), None, 0), (("cuda",), 0.5, 0.5), (("cuda",), 0, 0), (("cpu",), 1, 1)],
)
def test_ray_is_asked_for_a_gpu_where_jobs_compute_on_one(
    devices: tuple[str, ...], given: float | None, asked: float
) -> None:
    config = launcher("ray", ray={"remote": {"num_gpus": given}})
    line = gpus.share(config, plan(*devices))
    assert config.ray.remote.num_gpus == asked
    assert (line is None) == (devices == ("cpu",))
    assert gpus.local(config)
    assert not gpus.local(launcher("ray", ray={"init": {"address": "auto"}}))


@pytest.mark.parametrize(
    ("devices", "there", "given", "processes"),
    [
        (("cuda",), 4, None, 4),
        (("cuda", "cpu"), 8, None, 8),
        (("cuda",), 8, 3, 3),
        (("cpu",), 8, None, 2),
        (("cpu",), 0, 5, 5),
    ],
)
def test_joblib_uses_all_gpus_of_a_machine(
    monkeypatch: pytest.MonkeyPatch, devices: tuple[str, ...], there: int, given: int | None, processes: int
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: there)
    config = launcher("joblib", **({"n_jobs": given} if given else {}))
    line = gpus.share(config, plan(*devices), [f"hydra.launcher.n_jobs={given}"] if given else [])
    assert config.n_jobs == processes
    if line:
        assert line.startswith(f"{processes} processes (hydra.launcher.n_jobs), {there} GPUs")


@pytest.mark.parametrize(
    ("visible", "count", "names"),
    [(None, 3, "012"), ("4,6", 2, "46"), ("GPU-a, GPU-b", 2, ["GPU-a", "GPU-b"]), ("4,6", 1, "0")],
)
def test_gpus_have_names_that_other_processes_share(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int, names: str | list[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    assert gpus.here() == tuple(names)


class Noted:
    """A job that notes which GPU it was given, and when."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.device: int | None = None

    def select(self, device: int) -> None:
        self.device = device

    def __call__(self, composed: DictConfig) -> None:
        begin = time.time()
        time.sleep(0.15)
        note = {"device": self.device, "begin": begin, "end": time.time(), "pid": os.getpid()}
        (self.directory / f"{composed.number}.json").write_text(json.dumps(note))


def run(number: int, device: str, directory: Path, names: tuple[str, ...]) -> None:
    job = Noted(directory)
    each = gpus.OneEach(job, names, directory / "locks", job.select)
    each(OmegaConf.create({"number": number, "device": device}))


def notes(directory: Path) -> list[dict[str, Any]]:
    return sorted((json.loads(p.read_text()) for p in directory.glob("*.json")), key=lambda note: note["begin"])


@pytest.mark.parametrize("processes", [3, 5])
def test_jobs_side_by_side_have_a_gpu_each_and_use_all(tmp_path: Path, processes: int) -> None:
    Parallel(processes, backend="loky")(delayed(run)(n, "cuda", tmp_path, ("a", "b", "c")) for n in range(15))
    noted = notes(tmp_path)
    assert len(noted) == 15
    assert set(Counter(note["device"] for note in noted)) == {0, 1, 2}
    for device in range(3):
        own = [note for note in noted if note["device"] == device]
        assert all(before["end"] <= after["begin"] for before, after in pairwise(own)), own


@pytest.mark.parametrize("device", ["cpu", "cuda:2"])
def test_a_job_that_names_its_device_gets_no_other(tmp_path: Path, device: str) -> None:
    run(0, device, tmp_path, ("a",))
    assert notes(tmp_path)[0]["device"] is None
    assert not (tmp_path / "locks").exists()


def test_a_job_that_fails_gives_its_gpu_back(tmp_path: Path) -> None:
    def fail(_: DictConfig) -> None:
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            gpus.OneEach(fail, ("a",), tmp_path, lambda _: None)(OmegaConf.create({"device": "cuda"}))


def test_shards_of_one_calibration_are_jobs_of_their_own(sweep: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planner hands joblib a job for each shard, every one on `cuda`, and the pool of all GPUs with them."""
    launched: list[list[list[str]]] = []
    pools: list[tuple[Any, int]] = []

    def launch(launcher: Any, job_overrides: list[list[str]], initial_job_idx: int) -> list[Any]:
        launched.append([list(job) for job in job_overrides])
        pools.append((launcher.task_function, launcher.joblib["n_jobs"]))
        raise RuntimeError("counted")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(import_module("hydra_plugins.hydra_joblib_launcher._core"), "launch", launch)
    done = sweep("-m", *RANDOM, "calibration.shards=4", "hydra/launcher=joblib")
    assert "4 processes (hydra.launcher.n_jobs), 4 GPUs, one for a job" in done.stdout, done.stderr
    assert [(type(task), task.devices, n) for task, n in pools] == [(gpus.OneEach, ("0", "1", "2", "3"), 4)] * 2
    shards, leader = launched
    assert [[o for o in job if o.startswith("calibration.shard=")] for job in shards] == [
        [f"calibration.shard={n}"] for n in range(4)
    ]
    assert all("device=cuda" in job for job in (*shards, *leader))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("hydra/launcher=slurm",), "each job asks Slurm for 1 GPU (hydra.launcher.gpus_per_node)"),
        (("hydra/launcher=slurm", "hydra.launcher.gpus_per_node=2"), "each job asks Slurm for 2 GPUs"),
        (("hydra/launcher=ray",), "each job asks Ray for 1 GPU (hydra.launcher.ray.remote.num_gpus)"),
    ],
)
def test_the_plan_says_what_is_asked_for(sweep: Run, arguments: tuple[str, ...], said: str) -> None:
    dry = ("-m", *RANDOM, *arguments, "hydra.sweeper.dry_run=true")
    assert said in sweep(*dry, "device=cuda").stdout
    assert "GPU" not in sweep(*dry, "device=cpu").stdout


def test_a_grid_on_this_machine_needs_its_device_before_it_starts(
    sweep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for launched in ((), ("hydra/launcher=joblib",), ("hydra/launcher=ray",)):
        done = sweep("-m", *RANDOM, "device=cuda", *launched)
        assert done.returncode == 2
        assert "device=cuda asked for" in done.stderr
        assert not list(tmp_path.glob("runs/*"))
