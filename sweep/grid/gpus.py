"""A GPU for every job of a grid that computes on CUDA: asked of a scheduler, or one of this machine's own."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig

from sweep.config.hydra_errors import counted
from sweep.grid.plan import Plan

WAIT = 0.2  # seconds between two looks for a free GPU


def share(launcher: DictConfig, plan: Plan, given: Sequence[str] = ()) -> str | None:
    """Fill in what a launcher's configuration leaves open: how many GPUs a job asks for, and how many jobs of joblib
    run at once. Returns a line for the plan, None where no job computes on CUDA.

    given: the overrides of Hydra's own keys, as on the command line."""
    cuda = any(cell.config.device.startswith("cuda") for cell in plan.waiting)
    if "gpus_per_node" in launcher:
        line = _slurm(launcher, cuda)
    elif "ray" in launcher:
        if launcher.ray.remote.get("num_gpus") is None:
            launcher.ray.remote.num_gpus = int(cuda)
        line = f"each job asks Ray for {_gpus(launcher.ray.remote.num_gpus)} (hydra.launcher.ray.remote.num_gpus)"
    elif "n_jobs" in launcher:
        line = _joblib(launcher, cuda, any(o.startswith("hydra.launcher.n_jobs=") for o in given))
    else:
        line = "one job after the other, on the first GPU (hydra/launcher=joblib uses all of this machine)"
    return line if cuda else None


def _slurm(launcher: DictConfig, cuda: bool) -> str:
    more = launcher.get("additional_parameters") or {}
    others = {key: launcher.get(key) for key in ("gpus_per_task", "gres")}
    others |= {key: value for key, value in more.items() if str(key).startswith(("gpus", "gres"))}
    for key, value in others.items():
        if value:
            return f"each job asks Slurm for GPUs by {key}={value}"
    if launcher.gpus_per_node is None and cuda:
        launcher.gpus_per_node = 1
    number = launcher.gpus_per_node or 0
    if not number:
        launcher.gpus_per_node = None  # Slurm is not to be asked for none
    return f"each job asks Slurm for {_gpus(number)} (hydra.launcher.gpus_per_node)"


def _joblib(launcher: DictConfig, cuda: bool, given: bool) -> str:
    devices = len(here()) if cuda else 0
    if devices and not given:
        launcher.n_jobs = devices
    return (
        f"{counted(launcher.n_jobs, 'process', 'processes')} (hydra.launcher.n_jobs), {_gpus(devices)}, one for a job"
    )


def _gpus(number: Any) -> str:
    return f"{number:g} GPU" + ("" if number == 1 else "s")


def local(launcher: DictConfig) -> bool:
    """True if jobs run on this machine and nowhere else."""
    return "gpus_per_node" not in launcher and not ("ray" in launcher and launcher.ray.init.get("address"))


def here() -> tuple[str, ...]:
    """The GPUs that this process may use, in torch's order, by names that tell them apart between processes."""
    import torch

    number = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(named) if len(named) == number else tuple(map(str, range(number)))


def select(device: int) -> None:
    """Make it the one that `cuda` means in this process."""
    import torch

    torch.cuda.set_device(device)


@dataclass(frozen=True)
class OneEach:
    """A job that has a GPU to itself while it runs; it waits for a free one. Jobs of device=cuda:N have theirs, and
    those of device=cpu need none.

    task: the job. devices: names of the GPUs. place: where locks lie, the same for all grids of a user on a machine;
    a process that dies gives its lock back."""

    task: Callable[[DictConfig], Any]
    devices: tuple[str, ...]
    place: Path = Path(tempfile.gettempdir()) / f"mamba-scale-sweep-{os.getuid()}"
    select: Callable[[int], None] = select

    def __call__(self, composed: DictConfig) -> Any:
        if composed.device != "cuda":
            return self.task(composed)
        with self._taken() as device:
            self.select(device)
            return self.task(composed)

    @contextmanager
    def _taken(self) -> Iterator[int]:
        self.place.mkdir(parents=True, exist_ok=True)
        number = len(self.devices)
        usual = os.getpid() % number  # a worker that comes back finds its memory where it left it
        while True:
            for device in ((usual + i) % number for i in range(number)):
                lock = FileLock(self.place / f"gpu-{self.devices[device]}.lock")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                try:
                    yield device
                finally:
                    lock.release()
                return
            time.sleep(WAIT)
