"""From the command line of a multirun to the plan of its grid, every cell validated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from sweep.calibration import spec
from sweep.config import launch
from sweep.config.arguments import check_grammar, check_groups, several
from sweep.config.compose import Composer
from sweep.config.config import Config
from sweep.config.hydra_errors import one_line
from sweep.core.errors import UsageError
from sweep.grid.computes import tell
from sweep.grid.plan import Plan, plan
from sweep.models.defaults import settled
from sweep.runs import tracking


@dataclass(frozen=True)
class Planner:
    """loader: of Hydra's, for conf/. master: the multirun's own configuration, which every job's overrides change."""

    loader: ConfigLoader
    master: DictConfig

    def plan(self, params: list[str], arguments: list[str]) -> Plan:
        """The plan of a grid. params: overrides that a file of conf/experiment sweeps over. arguments: those of the
        command line. Raises UsageError for a cell that is wrong, and names it."""
        check_grammar(params)
        overrides = self._parsed([*params, *arguments])
        check_groups(overrides)
        several(launch.hydra_overrides(self.master))
        jobs = self._jobs(overrides)
        compose = Composer(self.loader, self.master)
        key = spec.keys()
        cells: list[tuple[Sequence[str], Config]] = []
        for number, job in enumerate(jobs):
            with _named(number, job):
                cells.append((job, settled(compose(job))))
        # the most samples first: those of the others are the first of them, and the text is read once
        for number, (asked, config) in sorted(enumerate(cells), key=lambda cell: -cell[1][1].calibration.samples):
            with _named(number, asked):
                key(config)
        if cells:
            first, config = cells[0]
            tell(next((o[7:] for o in reversed(first) if o.startswith("device=")), "auto"), config)
        for mode in {config.wandb.mode for _, config in cells}:
            tracking.check(mode)
        return plan(cells, key, spec.stored, self._place, spec.continued)

    def _jobs(self, overrides: list[Override]) -> list[list[str]]:
        """The overrides of every job. Several experiments are several sweeps, one after the other."""
        several = [o for o in overrides if o.key_or_group == "experiment" and o.is_sweep_override()]
        if not several:
            return _product(overrides)
        jobs = []
        for chosen in several[-1].sweep_string_iterator():
            rest = [o for o in overrides if o.key_or_group != "experiment"]
            experiment = [] if chosen == "null" else [f"experiment={chosen}"]  # Hydra's groups take no null
            jobs += _product(self._parsed([*experiment, *self._params_of(*experiment)]) + rest)
        return jobs

    def _parsed(self, overrides: list[str]) -> list[Override]:
        return OverridesParser.create(config_loader=self.loader).parse_overrides(overrides)

    def _params_of(self, *experiment: str) -> list[str]:
        """The overrides that an experiment's file sweeps over. Raises UsageError if it wants a launcher of its own."""
        composed = self._composed(experiment)
        if composed.hydra.launcher != self.master.hydra.launcher:
            name = experiment[0]
            raise UsageError(f"{name} has a launcher of its own; start it by itself, without other experiments")
        params = composed.hydra.sweeper.params or {}
        return [f"{key}={value}" for key, value in params.items()]

    def _composed(self, overrides: Sequence[str]) -> DictConfig:
        return self.loader.load_sweep_config(self.master, list(overrides))

    def _place(self, number: int, overrides: Sequence[str]) -> str:
        """A cell's directory below the sweep's: hydra.sweep.subdir, resolved in the cell's own configuration."""
        sweep = OmegaConf.to_container(self.master.hydra.sweep, resolve=False)
        pattern = str(sweep["subdir"]).replace("${hydra.job.num}", str(number))  # type: ignore[index, call-overload]
        if "${" not in pattern:
            return pattern
        composed = self._composed(overrides)
        with read_write(composed), open_dict(composed):
            composed.hydra.job.num = number
            composed.hydra.job.id = str(number)
        former = HydraConfig.instance().cfg
        try:
            HydraConfig.instance().set_config(composed)  # for ${hydra:…}
            return str(composed.hydra.sweep.subdir)
        finally:
            HydraConfig.instance().cfg = former


@contextmanager
def _named(number: int, job: Sequence[str]) -> Iterator[None]:
    """Whatever is wrong with a cell as a UsageError that names it."""
    try:
        yield
    except (UsageError, HydraException, OmegaConfBaseException) as error:
        raise UsageError(f"cell {number} ({' '.join(job)}): {one_line(error)}") from error


def _product(overrides: list[Override]) -> list[list[str]]:
    """The overrides of each job, from those with several values."""
    (jobs,) = BasicSweeper.split_arguments(overrides, None)
    return [list(job) for job in jobs]
