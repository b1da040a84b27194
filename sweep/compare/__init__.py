"""Compare cells: a query layer, verdicts with their evidence, tables, pictures, a report."""

from sweep.compare.query.comparison import Comparison, load

__all__ = ["Comparison", "load"]
