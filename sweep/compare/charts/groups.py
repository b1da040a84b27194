"""The scales of a layer's groups."""

from __future__ import annotations

from itertools import product

from sweep.compare.charts.base import Chart, rows
from sweep.compare.facts import Answer
from sweep.compare.query.database import GROUPING, SCALES
from sweep.compare.tables.chosen import pick

LAYERS = 8
REST = ("scale", "error", "relative", "heads", "positions")


def groups(a: Answer) -> Chart | None:
    """The scales of one layer's groups, head group x dim group, as a small heat map."""
    grouped = [n for n in a.shown if a.runs.listed[n].granularity != "tensor"][:4]
    source = a.runs.source(SCALES, grouped) if grouped else None
    if source is None:
        return None
    query = f"""
        SELECT cell, layer, coalesce(ssd_group, 0), head_group, coalesce(dim_group, 0), scale, scale_se,
               scale / avg(scale) OVER (PARTITION BY cell, layer) FROM {source}
        WHERE head_group IS NOT NULL AND site = 'x_conv_out' ORDER BY ALL"""
    places = _places(a, grouped)
    table = [
        (a.runs.labels[c], layer, ssd, head, dim, *rest, *places.get((c, layer, ssd, head, dim), ("not recorded", "")))
        for c, layer, ssd, head, dim, *rest in a.runs.sql(query)
    ]
    if not table:
        return None
    layers = pick(sorted({row[1] for row in table}), LAYERS)
    cells = list(dict.fromkeys(row[0] for row in table))
    table = [row for row in table if row[1] in layers]
    ssd = max(row[2] for row in table) + 1
    tip = [{"field": n} for n in ("ssd_group", "head_group", "dim_group")]
    tip += [{"field": "scale", "format": ".4g"}, {"field": "error", "title": "±", "format": ".2~g"}]
    tip += [{"field": "relative", "format": ".2f", "title": "of the layer's mean"}]
    tip += [{"field": "heads"}, {"field": "positions", "title": "positions in each head, by size"}]
    encoding = {
        "x": {
            "field": "dim_group",
            "type": "ordinal",
            "title": "dim_group",
            "axis": {"labelAngle": 0, "domain": False, "ticks": False},
        },
        "y": {
            "field": "row",
            "type": "ordinal",
            "title": "head_group" if ssd == 1 else "ssd_group · head_group",
            "sort": None,
            "axis": {"labelLimit": 150, "domain": False, "ticks": False},
        },
    }
    # the ends of the scale of colours are dark on light paper and light on dark
    legible = {
        "condition": {"test": "datum.relative < 0.5 || datum.relative >= 2", "value": "var(--paper)"},
        "value": "var(--ink)",
    }
    return Chart(
        "groups",
        "groups",
        0,
        f"Scales of the groups of x after SiLU, {a.runs.listed[grouped[0]].model}",
        "One scale per (ssd_group, head_group, dim_group), per group and not per channel; colour is the scale relative "
        "to the layer's mean, the small number its standard error. Which heads a group holds stands beside it, which "
        "of their positions in the tooltip.",
        {
            "data": rows(("cell", "layer", "ssd_group", "head_group", "dim_group", *REST), table),
            "transform": [
                {"filter": "datum.layer === layer && datum.cell === cell"},
                {
                    "calculate": ("" if ssd == 1 else "datum.ssd_group + ' · ' + ")
                    + "datum.head_group + (datum.positions ? ': heads ' + datum.heads : '')",
                    "as": "row",
                },
                {"calculate": "'± ' + format(datum.error, '.1~g')", "as": "with_error"},
            ],
            "height": 38 * len({(row[2], row[3]) for row in table}),
            "layer": [
                {
                    "mark": {"type": "rect", "stroke": "var(--paper)", "strokeWidth": 2},
                    "encoding": {
                        **encoding,
                        "color": {
                            "field": "relative",
                            "type": "quantitative",
                            "scale": {
                                "type": "threshold",
                                "domain": [0.25, 0.5, 0.75, 0.95, 1.05, 1.33, 2, 4],
                                "range": [f"var(--d{i})" for i in range(9)],
                            },
                            "legend": {"title": "of the layer's mean", "orient": "top", "gradientLength": 240},
                        },
                        "tooltip": tip,
                    },
                },
                {
                    "mark": {"type": "text", "fontSize": 12, "fontWeight": 600, "dy": -3},
                    "encoding": {
                        **encoding,
                        "text": {"field": "scale", "format": ".2~g"},
                        "color": legible,
                        "tooltip": tip,
                    },
                },
                {
                    "transform": [{"filter": "isValid(datum.error)"}],
                    "mark": {"type": "text", "fontSize": 9.5, "dy": 9},
                    "encoding": {**encoding, "text": {"field": "with_error"}, "color": legible, "tooltip": tip},
                },
            ],
        },
        {"cell": ("cell", cells, cells[0]), "layer": ("layer", layers, layers[0])},
    )


def _places(a: Answer, cells: list[int]) -> dict[tuple[int, int, int, int, int], tuple[str, str]]:
    """(cell, layer, ssd, head and dim group) → its heads, and which of their positions, sorted by size, of how many."""
    source = a.runs.source(GROUPING, cells)
    if source is None:
        return {}
    query = (
        f"SELECT cell, layer, ssd_groups, head_groups, dim_groups, channels, heads, head_ends, dim_ends FROM {source}"
    )
    places = {}
    for cell, layer, s, h, d, channels, heads, head_ends, dim_ends in a.runs.sql(query):
        per, size = len(heads) // s, len(channels) // len(heads)
        for i, j, k in product(range(s), range(h), range(d)):
            ends, dims = [0, *head_ends[i * h : (i + 1) * h]], [0, *dim_ends[(i * h + j) * d : (i * h + j + 1) * d]]
            inside = sorted(heads[i * per + ends[j] : i * per + ends[j + 1]])
            places[cell, layer, i, j, k] = (
                " ".join(map(str, inside)),
                f"{dims[k] + 1} to {dims[k + 1]} of {size}",
            )
    return places


CHARTS = (groups,)
