"""Charts of an answer: Vega-Lite descriptions, for the report and for pictures."""

from __future__ import annotations

from sweep.compare.answer import Answer
from sweep.compare.charts.alpha_and_sensitivity import sensitivity, sqnr_by_alpha
from sweep.compare.charts.base import Chart, shared
from sweep.compare.charts.distribution import gain, histogram
from sweep.compare.charts.folds import groups, samples
from sweep.compare.charts.scales import by_layer, difference

__all__ = ["Chart", "charts", "shared"]


def charts(a: Answer) -> dict[str, Chart]:
    """Every chart that the cells can fill, by name."""
    found = [
        sqnr_by_alpha(a),
        by_layer(a),
        difference(a, "scale"),
        difference(a, "sqnr"),
        histogram(a),
        gain(a),
        samples(a),
        groups(a),
        sensitivity(a),
    ]
    return {chart.name: chart for chart in found if chart}
