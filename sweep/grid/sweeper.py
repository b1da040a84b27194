"""Hydra's sweeper for grids: plans all cells, shows the plan, launches it wave by wave.

A cell's result is what lies in its directory, not what a launcher brings back: a job that was killed,
requeued or started by hand counts by its files.
"""

from __future__ import annotations

import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from sweep.config.launch import override
from sweep.core.files import draft

if TYPE_CHECKING:  # Hydra imports every plugin at every start: nothing heavy up here
    from sweep.grid.plan import Cell, Plan
    from sweep.grid.state import Grid


class GridSweeper(BasicSweeper):
    """conf/hydra/sweeper/grid.yaml says what its arguments mean."""

    def __init__(
        self,
        max_batch_size: int | None = None,
        params: dict[str, str] | None = None,
        dry_run: bool = False,
        resume: bool = True,
    ) -> None:
        super().__init__(max_batch_size, params)
        self.dry_run = dry_run
        self.resume = resume

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self._task = task_function

    def _start_launcher(self, planned: Plan) -> None:
        """The launcher anew, as the plan has filled in its configuration. Raises UsageError where jobs compute on CUDA,
        on this machine, and it has none."""
        from sweep.grid import gpus
        from sweep.models import load

        assert self.config is not None
        assert self.hydra_context is not None
        launcher, task = self.config.hydra.launcher, self._task
        devices = {cell.config.device for cell in planned.waiting if cell.config.device.startswith("cuda")}
        if gpus.local(launcher):
            for device in sorted(devices):
                load.check(device)
        if "cuda" in devices and "n_jobs" in launcher:
            task = gpus.OneEach(self._task, gpus.here())
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.hydra_context, task_function=task, config=self.config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run a grid. Raises UsageError for a bad cell before anything starts; exits with 2, or with 1 after a
        crash, when all is done and cells have failed."""
        from sweep.config import launch
        from sweep.core.cli import aside, spelled
        from sweep.core.console import Console
        from sweep.grid import gpus, state
        from sweep.grid.planner import Planner
        from sweep.grid.show import show

        assert self.config is not None
        assert self.hydra_context is not None
        planned = Planner(self.hydra_context.config_loader, self.config).plan(self._parse_config(), arguments)
        with read_write(self.config), open_dict(self.config):
            shared = gpus.share(self.config.hydra.launcher, planned, launch.hydra_overrides(self.config))
        if self.dry_run:
            show(planned, Console(), every=True, gpus=shared)
            return
        self._start_launcher(planned)
        wanted = Path(str(self.config.hydra.sweep.dir))
        chosen = any(o.startswith("hydra.sweep.dir=") for o in launch.hydra_overrides(self.config))
        with state.claimed(wanted, chosen, planned, self.resume, launch.overwrite(self.config)) as claimed:
            with aside():
                show(claimed.plan, Console(), gpus=shared)
            self._settle(claimed.directory)
            failed = self._run(claimed)
        for line in failed:
            print(f"error: {line}", file=sys.stderr)
        if len(claimed.errors) + sum(map(len, claimed.followers.values())) < len(claimed.plan.cells):
            with aside():
                print(f"\nall cells side by side: {spelled('compare')} {quote(str(claimed.directory))}", flush=True)
        if failed:
            sys.exit(claimed.exit_code)

    def _settle(self, directory: Path) -> None:
        """Make `directory` the sweep's, here and in every job."""
        assert self.config is not None
        directory.mkdir(parents=True, exist_ok=True)
        with read_write(self.config), open_dict(self.config):
            self.config.hydra.sweep.dir = str(directory)
            self.config.hydra.overrides.hydra.append(override("hydra.sweep.dir", str(directory)))
        with draft(directory / "multirun.yaml") as file:
            OmegaConf.save(self.config, file)

    def _run(self, state: Grid) -> list[str]:
        """Launch wave by wave: shards, leaders, followers. Returns a line for each cell that failed."""
        for wave in state.plan.waves():
            shards = [
                [
                    *_asked(leader),
                    f"calibration.shard={shard}",
                    override("hydra.sweep.subdir", f".shards/{leader.number}-{shard}"),
                ]
                for leader, shard in state.plan.shards(wave)
            ]
            self._launch(shards, 0)  # a shard that fails costs time: the leader computes what is missing
            ready = state.ready(wave)
            state.settle(ready, self._launch([self._job(cell) for cell in ready], ready[0].number if ready else 0))
        return state.failures()

    def _job(self, cell: Cell) -> list[str]:
        return [*_asked(cell), override("hydra.sweep.subdir", cell.place)]

    def _launch(self, jobs: list[list[str]], first: int) -> list[Exception | None]:
        """Launch jobs, at most `max_batch_size` at once. Returns the exception of each, as far as known."""
        assert self.launcher is not None
        errors: list[Exception | None] = []
        for batch in self.split_overrides_to_chunks(jobs, self.max_batch_size) if jobs else ():
            try:
                returns = self.launcher.launch(batch, initial_job_idx=first + len(errors))
                errors += [r._return_value if r.status is JobStatus.FAILED else None for r in returns]
            except Exception as error:  # the launcher itself: no sbatch, a job cancelled, a worker killed
                errors += [error] * len(batch)
        return errors


def _asked(cell: Cell) -> list[str]:
    """A cell's overrides with device and dtype as the plan has them: they may mean others where the job runs."""
    return [*cell.overrides, f"device={cell.config.device}", f"dtype={cell.config.dtype}"]
