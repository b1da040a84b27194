"""Charts of an answer: Vega-Lite descriptions, for the report and for pictures.

A module of this package that has CHARTS, functions from an answer to a chart or None where the cells cannot fill it,
is all that a new chart takes: the report, the pictures and W&B show it.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from sweep.compare.charts.base import Chart, shared
from sweep.compare.facts import Answer

__all__ = ["Chart", "charts", "shared"]


def charts(a: Answer) -> dict[str, Chart]:
    """Every chart that the cells can fill, by name, in the order of the report within its section."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    drawn = [chart for module in modules for draw in getattr(module, "CHARTS", ()) if (chart := draw(a))]
    return {chart.name: chart for chart in sorted(drawn, key=lambda chart: (chart.place, chart.name))}
