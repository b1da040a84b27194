"""One job of Hydra's: a cell of its own, a cell of a grid, or a shard of a calibration."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from sweep.config import launch
from sweep.config.config import Config, from_hydra
from sweep.config.hydra_errors import refuse
from sweep.core import streams
from sweep.core.cli import aside
from sweep.core.errors import UsageError
from sweep.core.signals import Interrupted, shield_requeue
from sweep.grid import objective
from sweep.models.kernels import malloc


def job(composed: DictConfig) -> float | list[float] | None:
    """The function that Hydra calls, in this process or, through a launcher, in another one. Returns the cell's
    `objective`.

    Relative paths are the launch directory's, also where hydra.job.chdir=true has just left it."""
    os.chdir(HydraConfig.get().runtime.cwd)
    streams.forgiving()  # a launcher's process has streams of its own
    malloc.keep()
    from sweep.models.defaults import settled  # torch is imported by what needs it, not by every command

    hydra = HydraConfig.get()
    directory = Path(hydra.runtime.output_dir)
    config, objectives = settled(from_hydra(composed)), launch.objectives(composed)
    if hydra.mode is not RunMode.MULTIRUN:
        alone(config, directory)
        return objective.answer(directory, objectives)
    shield_requeue()
    try:
        if config.calibration.shard is not None:
            from sweep.runs.passes import shard

            shard(config)
            return None
        member(config, directory, Path(hydra.sweep.dir), launch.overwrite(composed))
        return objective.answer(directory, objectives)
    except Interrupted as signal:
        print(f"interrupted: {signal}", file=sys.stderr, flush=True)
        signal.hand_on()  # under submitit: to its handler, which requeues this job
    except UsageError:
        raise
    except Exception:
        logging.getLogger(__name__).exception("a cell of the grid failed")  # the planner reports it in one line
        raise


def alone(config: Config, directory: Path) -> None:
    """A single run, with all that it has to say. `RunPlace` has seen to its directory."""
    from sweep.core.console import Console
    from sweep.runs.cell import run
    from sweep.runs.summary import show

    cell = run(config, directory, directory.name)
    try:
        with aside():
            show(cell, Console())
    except UsageError as error:
        refuse(error)  # at once: the cell is finished all the same, and must not be withdrawn


def member(config: Config, directory: Path, sweep: Path, overwrite: bool = False) -> None:
    """A cell of a grid, in one line. A finished one is left as it is: its job was requeued, or started twice.

    sweep: the grid's directory."""
    from sweep.calibration import spec
    from sweep.runs import plan_record
    from sweep.runs import record as runs
    from sweep.runs.cell import run
    from sweep.runs.place import take

    begin = time.perf_counter()
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / ".lock"):
        key = spec.key(config).hash
        if runs.finished(directory, config, key):
            with aside():
                print(f"{directory.name:>4}  {config.label}  finished already", flush=True)
            return
        take(directory, lambda: runs.repeated(directory, config), overwrite)
        plan = plan_record.read(sweep) if config.calibration.tolerance else None
        asked = plan.demands.get(key, ()) if plan else ()
        cell = run(config, directory, sweep.name, siblings=True, asked=asked)
    with aside():
        print(f"{directory.name:>4}  {config.label}  {cell.how}  {time.perf_counter() - begin:.1f} s", flush=True)
