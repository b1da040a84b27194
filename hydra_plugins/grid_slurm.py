"""Hydra's door to `sweep.grid.slurm`: Hydra takes launchers from this namespace only."""

from sweep.grid import slurm


class GridSlurmLauncher(slurm.GridSlurmLauncher):
    """conf/hydra/launcher/slurm.yaml says what its arguments mean."""
