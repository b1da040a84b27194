"""The cost of every place, layers x sites, one cell at a time."""

from __future__ import annotations

import math

from sweep.compare.analysis.place_errors import unresolved
from sweep.compare.analysis.significance import jackknife
from sweep.compare.charts.base import TIED, Chart, rows
from sweep.compare.charts.measure import NOISE, by_place, by_place_replicates, measure
from sweep.compare.facts import Answer
from sweep.quantization.sites import ordered

STEPS = 8


def cost_map(a: Answer) -> Chart | None:
    """Heat map of the cost by place: sites in the order of the data flow against layers. The dearest place of a cell is
    marked, and what its error does not tell from it."""
    name, table = by_place(a)
    if not table:
        return None
    marked = _marked(a, name, table)
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
    drawn = [
        (labels[c], layer, site, cost, *marked.get((c, layer, site), (None, ""))) for c, layer, site, cost in table
    ]
    tip = [{"field": "site"}, {"field": "layer"}, {"field": "cost", "title": name, "format": ".3~g"}]
    tip += [{"field": "error", "title": "±", "format": ".2~g"}, {"field": "cell"}]
    return Chart(
        "cost-map",
        "where",
        0,
        f"Where it costs: {name}, by layer and site{several}",
        "Stronger colours cost more; they hold for every cell. "
        + (
            "Noise over signal is mean (x − q(x))² / mean x² of a site: what the network makes of it is not in it."
            if name == NOISE
            else "The sites of a cell add up to its predicted loss."
        )
        + (f" A ring marks the dearest place, {TIED} what noise may all tell from it (95 %)." if marked else ""),
        {
            "data": rows(("cell", "layer", "site", "cost", "error", "mark"), drawn),
            "transform": [{"filter": "datum.cell === cell"}, {"calculate": step, "as": "step"}],
            "height": 26 * len(sites),
            "encoding": {
                "x": {"field": "layer", "type": "ordinal", "title": "layer", "axis": {"labelAngle": 0, "grid": False}},
                "y": {
                    "field": "site",
                    "type": "nominal",
                    "title": None,
                    "sort": sites,
                    "axis": {"domain": False, "ticks": False, "labelLimit": 120},
                },
            },
            "layer": [
                {
                    "mark": {"type": "rect", "stroke": "var(--paper)", "strokeWidth": 1, "cursor": "pointer"},
                    "encoding": {
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
                        "tooltip": tip,
                    },
                },
                {
                    "transform": [{"filter": "datum.mark !== ''"}],
                    "mark": {"type": "text", "fontSize": 13, "fontWeight": 600, "cursor": "pointer"},
                    "encoding": {
                        "text": {"field": "mark"},
                        "color": {
                            "condition": {"test": f"datum.step > {len(names) / 2:g}", "value": "var(--paper)"},
                            "value": "var(--ink)",
                        },
                        "tooltip": tip,
                    },
                },
            ],
        },
        {"cell": ("cell", cells, ranked[0] if ranked else cells[0])},
        opens=True,
    )


def _marked(
    a: Answer, name: str, table: list[tuple[int, int, str, float]]
) -> dict[tuple[int, int, str], tuple[float, str]]:
    """(standard error, mark) of every place with replicates; the mark is empty unless it is the dearest of its cell or
    not told from that."""
    known = by_place_replicates(a, name)
    dearest: dict[int, tuple[int, str, float]] = {}
    for cell, layer, site, cost in table:
        if cell not in dearest or cost > dearest[cell][2]:
            dearest[cell] = (layer, site, cost)
    marked = {}
    for cell, layer, site, cost in table:
        if (mine := known.get((cell, layer, site))) is not None:
            there, place, most = dearest[cell]
            tied = unresolved(most, known.get((cell, there, place)), cost, mine, paired=True)
            mark = "○" if (layer, site) == (there, place) else TIED if tied else ""
            marked[cell, layer, site] = float(jackknife(mine)), mark
    return marked


def _borders(values: list[float]) -> list[float]:
    """At most STEPS - 1 round numbers that part the range of these, evenly on a logarithmic axis."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    marks = [float(f"{m}e{power}") for power in range(low, high + 1) for m in (1, 2, 5)]
    inside = [mark for mark in marks if min(values) < mark < max(values)] or [max(values)]
    every = -(-len(inside) // (STEPS - 1))
    return inside[::-1][::every][::-1]


CHARTS = (cost_map,)
