"""Compare cells: a query layer, verdicts with their evidence, tables, pictures, a report.

Reads the files of finished cells alone. Needs no torch, and wandb only to log to it."""

from sweep.compare.notebook import Runs, load
from sweep.compare.query.comparison import Comparison

__all__ = ["Comparison", "Runs", "load"]
