"""Compare cells: a query layer, verdicts with their evidence, tables, pictures, a report."""

from sweep.compare.notebook import Runs, load
from sweep.compare.query.comparison import Comparison

__all__ = ["Comparison", "Runs", "load"]
