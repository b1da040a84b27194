"""The cost of every place, layers x sites, one cell at a time."""

from __future__ import annotations

import math

from sweep.compare.charts.base import Chart, rows
from sweep.compare.charts.measure import by_place, measure
from sweep.compare.facts import Answer
from sweep.quantization.sites import ordered

STEPS = 8


def cost_map(a: Answer) -> Chart | None:
    """Heat map of the cost by place: sites in the order of the data flow against layers."""
    name, table = by_place(a)
    if not table:
        return None
    labels = a.runs.labels
    there = {row[0] for row in table}
    cells = [labels[n] for n in a.shown if n in there]
    ranked = [labels[n] for n in measure(a).best() if n in there]
    sites = ordered({row[2] for row in table})
    several = f", {a.runs.listed[a.shown[0]].model}" if len({a.runs.listed[n].model for n in a.shown}) == 1 else ""
    borders = _borders([row[3] for row in table])
    names = [f"< {borders[0]:g}", *(f"from {border:g}" for border in borders)]
    step = str(len(borders))
    for i, border in reversed(list(enumerate(borders))):
        step = f"datum.cost < {border} ? {i} : {step}"
    colours = [f"var(--s{round(i * (STEPS - 1) / max(len(borders), 1))})" for i in range(len(names))]
    return Chart(
        "cost-map",
        "where",
        0,
        f"Where it costs: {name}, by layer and site{several}",
        "Stronger colours cost more; they hold for every cell. Noise over signal is mean (x − q(x))² / mean x² of a "
        "site: what the network makes of it is not in it."
        if name.startswith("noise")
        else "Stronger colours cost more; they hold for every cell. The sites of a cell add up to its predicted loss.",
        {
            "data": rows(("cell", "layer", "site", "cost"), ((labels[c], *rest) for c, *rest in table)),
            "transform": [{"filter": "datum.cell === cell"}, {"calculate": step, "as": "step"}],
            "height": 26 * len(sites),
            "mark": {"type": "rect", "stroke": "var(--paper)", "strokeWidth": 1, "cursor": "pointer"},
            "encoding": {
                "x": {"field": "layer", "type": "ordinal", "title": "layer", "axis": {"labelAngle": 0, "grid": False}},
                "y": {
                    "field": "site",
                    "type": "nominal",
                    "title": None,
                    "sort": sites,
                    "axis": {"domain": False, "ticks": False, "labelLimit": 120},
                },
                "color": {
                    "field": "step",
                    "type": "ordinal",
                    "scale": {"domain": list(range(len(names))), "range": colours},
                    "legend": {
                        "title": name,
                        "orient": "top",
                        "columns": len(names),
                        "symbolType": "square",
                        "symbolSize": 130,
                        "symbolStrokeWidth": 0,
                        "labelExpr": f"{names}[datum.value]",
                    },
                },
                "tooltip": [
                    {"field": "site"},
                    {"field": "layer"},
                    {"field": "cost", "title": name, "format": ".3~g"},
                    {"field": "cell"},
                ],
            },
        },
        {"cell": ("cell", cells, ranked[0] if ranked else cells[0])},
        opens=True,
    )


def _borders(values: list[float]) -> list[float]:
    """At most STEPS - 1 round numbers that part the range of these, evenly on a logarithmic axis."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    marks = [float(f"{m}e{power}") for power in range(low, high + 1) for m in (1, 2, 5)]
    inside = [mark for mark in marks if min(values) < mark < max(values)] or [max(values)]
    every = -(-len(inside) // (STEPS - 1))
    return inside[::-1][::every][::-1]


CHARTS = (cost_map,)
