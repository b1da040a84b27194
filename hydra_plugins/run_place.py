"""Hydra's door to `sweep.grid.run_place`, as conf/hydra/sweep.yaml names it."""

from sweep.grid import run_place


class RunPlace(run_place.RunPlace):
    """Sees to the directory of a run before Hydra writes its first file."""
