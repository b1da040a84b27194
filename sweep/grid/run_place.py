"""The directory of a run, settled before Hydra writes its first file into it, so that nothing there is lost.

Hydra imports this at every start: nothing heavy on top."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

OURS = ("hydra_plugins.grid_sweeper.GridSweeper", "hydra._internal.core_plugins.basic_sweeper.BasicSweeper")


class RunPlace(Callback):
    """Hydra makes a warning of a callback's exception, so that every one has to end the process here."""

    def __init__(self) -> None:
        self._before: frozenset[str] = frozenset()
        self._held: ExitStack | None = None

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a configuration that is wrong before there is a directory, then take the directory."""
        _or_refuse(lambda: self._run(config))

    def on_run_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:  # type: ignore[override]
        """Remove what a run has left that was refused."""
        from sweep.config.hydra_errors import refuse
        from sweep.core.errors import UsageError
        from sweep.runs.place import withdraw

        if self._held:
            self._held.close()
        if isinstance(job_return._return_value, UsageError):
            withdraw(Path(config.hydra.run.dir), f"{config.hydra.job.name}.log", self._before)
            refuse(job_return._return_value)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Other sweepers than the planner of grids know nothing of what a directory holds."""
        _or_refuse(lambda: self._multirun(config))

    def _run(self, config: DictConfig) -> None:
        from sweep.config import launch
        from sweep.config.arguments import single
        from sweep.config.config import from_hydra
        from sweep.core.fresh import fresh
        from sweep.core.paths import expanded
        from sweep.grid.computes import tell
        from sweep.models.defaults import settled
        from sweep.runs import record as runs
        from sweep.runs.place import held, take, written

        single(launch.hydra_overrides(config))
        asked = settled(from_hydra(config))
        overwrite = launch.overwrite(config)
        launch.objectives(config)
        directory = Path(expanded("hydra.run.dir", str(config.hydra.run.dir)))
        if _chosen(config, "hydra.run.dir"):
            self._before = written(directory, f"{config.hydra.job.name}.log")
            directory.mkdir(parents=True, exist_ok=True)
        else:
            directory = fresh(directory)
        self._held = ExitStack()
        self._held.enter_context(held(directory, "hydra.run.dir"))

        take(directory, lambda: runs.repeated(directory, asked), overwrite)
        with read_write(config), open_dict(config):
            config.hydra.run.dir = str(directory)
        tell(str(config.device), asked)

    def _multirun(self, config: DictConfig) -> None:
        from sweep.config import launch
        from sweep.core.errors import UsageError
        from sweep.core.paths import expanded
        from sweep.runs.place import INSIST

        asked = str(config.hydra.sweep.dir)
        if (directory := expanded("hydra.sweep.dir", asked)) != asked:
            with read_write(config), open_dict(config):
                config.hydra.sweep.dir = directory
                config.hydra.overrides.hydra.append(launch.override("hydra.sweep.dir", directory))
        sweeper = config.hydra.sweeper._target_
        if sweeper not in OURS and not launch.objectives(config):
            name = config.hydra.runtime.choices["hydra/sweeper"]
            raise UsageError(
                f"hydra/sweeper={name} optimizes a number that every cell returns: say which column of the summary it "
                "is, for example objective=x_conv_out/sqnr_db_mean hydra.sweeper.direction=maximize"
            )
        if sweeper == OURS[0] or launch.overwrite(config):
            return
        if taken := next(Path(directory).glob("**/run.json"), None):
            raise UsageError(f"hydra.sweep.dir={directory} holds {taken} of another sweep: {INSIST}")


def _chosen(config: DictConfig, key: str) -> bool:
    from sweep.config import launch

    return any(override.startswith(f"{key}=") for override in launch.hydra_overrides(config))


def _or_refuse(check: Callable[[], None]) -> None:
    from sweep.config.hydra_errors import refuse
    from sweep.core.errors import UsageError

    try:
        check()
    except (UsageError, HydraException, OmegaConfBaseException) as error:
        refuse(error)
    except OSError as error:
        refuse(UsageError(f"{error.filename}: {error.strerror}" if error.filename else str(error)))
    except Exception:
        traceback.print_exc()
        sys.exit(1)
