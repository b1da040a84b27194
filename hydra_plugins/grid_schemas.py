"""Hydra's door to `sweep.grid.launcher_schemas`: Hydra takes search path plugins from this namespace only."""

from sweep.grid import launcher_schemas


class GridSchemas(launcher_schemas.GridSchemas):
    """Names the launchers' schemas before any file of conf/hydra/launcher is read."""
