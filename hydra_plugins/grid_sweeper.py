"""Hydra's door to `sweep.grid.sweeper`: Hydra takes sweepers from this namespace only."""

from sweep.grid import sweeper


class GridSweeper(sweeper.GridSweeper):
    """conf/hydra/sweeper/grid.yaml says what its arguments mean."""
