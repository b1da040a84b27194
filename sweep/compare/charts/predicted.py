"""Predicted loss against the measured one, a point per evaluated cell."""

from __future__ import annotations

import math

from sweep.compare.charts.base import HEIGHT, SERIES, SHOWN, Chart, cell_colour, only, points, rows, who
from sweep.compare.charts.measure import band
from sweep.compare.facts import Answer

FIELDS = ("predicted", "low", "high", "measured", "least", "most", "predicted_error", "measured_error")


def predicted(a: Answer) -> Chart | None:
    """Measured KL against predicted loss of every shown cell that has both, with errors, the line where they are equal
    and the line of their median ratio."""
    both = [n for n in a.shown if n in a.costs.measured and n in a.costs.predicted]
    both = [n for n in both if a.costs.measured[n].value > 0 and a.costs.predicted[n].value > 0]
    if len(both) < 2 or (c := a.calibration) is None:
        return None
    names, table = who(a), []
    for n in both:
        guess, truth = a.costs.predicted[n], a.costs.measured[n]
        both_bands = (guess.value, *band(guess, log=True), truth.value, *band(truth, log=True))
        table.append((*names[n], *both_bands, guess.se, truth.se))
    ends = [min(row[3] for row in table) / 1.5, max(row[3] for row in table) * 1.5]
    lines = [
        (name, x, k * x) for name, k in (("as predicted", 1.0), (f"{c.factor:.1f} times that", c.factor)) for x in ends
    ]
    look = cell_colour(a)
    scale = {"type": "log", "nice": False, "padding": 10}
    axis = {"format": "~g", "tickCount": 5}
    x = {
        "field": "predicted",
        "type": "quantitative",
        "title": "predicted loss, nats per token",
        "scale": scale,
        "axis": axis,
    }
    y = {
        "field": "measured",
        "type": "quantitative",
        "title": "measured KL, nats per token",
        "scale": scale,
        "axis": axis,
    }
    tip = [{"field": "cell"}]
    for field, error in (("predicted", "predicted_error"), ("measured", "measured_error")):
        tip += [{"field": field, "format": ".3~g"}, {"field": error, "title": "±", "format": ".2~g"}]
    rank = "" if math.isnan(c.rank) else f"Rank correlation {c.rank:.2f} over {c.cells} cells. "
    models = {a.runs.listed[n].model for n in both}
    bar = {"type": "rule", "strokeWidth": 1.5}
    return Chart(
        "predicted",
        "settings",
        5,
        f"Measured cost against predicted{f', {next(iter(models))}' if len(models) == 1 else ''}",
        f"{rank}Measured KL is {c.factor:.1f} times predicted loss ({c.low:.1f} to {c.high:.1f}). Bars are ± 2 "
        "standard errors. Predicted loss takes rounding errors for independent: where they go together it is low. It "
        "ranks settings, the measured one says how much.",
        {
            "data": rows((*SERIES, *FIELDS), table),
            "transform": [{"filter": SHOWN}],
            "height": HEIGHT,
            "encoding": {"x": x, "y": y},
            "layer": [
                {
                    "data": rows(("line", "predicted", "measured"), lines),
                    "mark": {"type": "line", "strokeWidth": 1.2, "color": "var(--ink-2)", "clip": True},
                    "encoding": {
                        "strokeDash": {
                            "field": "line",
                            "type": "nominal",
                            "sort": None,
                            "scale": {"range": [[4, 3], [1, 0]]},
                            "legend": {"title": None, "orient": "top", "symbolType": "stroke", "symbolSize": 300},
                        }
                    },
                },
                {
                    "transform": [{"filter": "isValid(datum.low)"}],
                    "mark": bar,
                    "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, **only(look, "color")},
                },
                {
                    "transform": [{"filter": "isValid(datum.least)"}],
                    "mark": bar,
                    "encoding": {"y": {**y, "field": "least"}, "y2": {"field": "most"}, **only(look, "color")},
                },
                {"mark": points(60), "encoding": {**only(look, "color", "shape"), "tooltip": tip}},
            ],
        },
    )  # fmt: skip


CHARTS = (predicted,)
