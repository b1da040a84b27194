"""One job of Hydra's: a cell of its own, a cell of a grid, or a shard of a calibration."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from pathlib import Path

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from sweep.config.arguments import single
from sweep.config.config import Config, from_hydra
from sweep.config.hydra_errors import refuse
from sweep.core.cli import aside
from sweep.core.errors import UsageError
from sweep.core.signals import Interrupted, shield_requeue


def job(composed: DictConfig) -> None:
    """What Hydra calls, in this process or, through a launcher, in another one."""
    hydra = HydraConfig.get()
    directory = Path(hydra.runtime.output_dir)
    if hydra.mode is not RunMode.MULTIRUN:
        chosen = any(o.startswith("hydra.run.dir=") for o in hydra.overrides.hydra)
        alone(composed, directory if chosen else own(directory))
        return
    shield_requeue()
    config = from_hydra(composed)
    try:
        if config.calibration.shard is not None:
            from sweep.runs.cell import shard

            shard(config)
        else:
            member(config, directory, Path(hydra.sweep.dir).name)
    except Interrupted as signal:
        print(f"interrupted: {signal}", file=sys.stderr, flush=True)
        signal.hand_on()  # under submitit: to its handler, which requeues this job
    except UsageError:
        raise
    except Exception:
        logging.getLogger(__name__).exception("a cell of the grid failed")  # the planner reports it in one line
        raise


def own(directory: Path) -> Path:
    """The directory Hydra made, or a new one beside it where a run that began in the same second has taken that."""
    try:
        (directory / ".taken").touch(exist_ok=False)
    except FileExistsError:
        from sweep.core.fresh import fresh

        return fresh(directory)
    return directory


def alone(composed: DictConfig, directory: Path) -> None:
    """A single run, with all that it has to say."""
    try:
        single(HydraConfig.get().overrides.hydra)
        config = from_hydra(composed)
        from sweep.core.console import Console
        from sweep.runs.cell import run
        from sweep.runs.summary import show

        cell = run(config, directory, directory.name)
    except UsageError as error:
        shutil.rmtree(directory, ignore_errors=True)  # nothing half-written: it holds no result
        refuse(error)  # here: Hydra would have more to say
    except OSError as error:
        if error.filename is None:
            raise
        refuse(UsageError(f"{error.filename}: {error.strerror}"))
    try:
        with aside():
            show(cell, Console())
    except UsageError as error:
        refuse(error)  # the cell is finished all the same


def member(config: Config, directory: Path, group: str) -> None:
    """A cell of a grid, in one line. A finished one is left as it is: its job was requeued, or started twice."""
    from sweep.calibration import spec
    from sweep.runs import record as runs
    from sweep.runs.cell import run

    begin = time.perf_counter()
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / ".lock"):
        if runs.finished(directory, config, spec.key(config).hash):
            with aside():
                print(f"{directory.name:>4}  {config.label}  finished already", flush=True)
            return
        cell = run(config, directory, group, siblings=True)
    how = "read from the store" if cell.record["calibration"]["cached"] else "calibrated"
    with aside():
        print(f"{directory.name:>4}  {config.label}  {how}  {time.perf_counter() - begin:.1f} s", flush=True)
