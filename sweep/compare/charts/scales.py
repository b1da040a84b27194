"""Scales by layer and cell, and how they differ from the baseline's."""

from __future__ import annotations

from sweep.compare.answer import Answer
from sweep.compare.charts.base import AT_SITE, HEIGHT, SHOWN, ZOOM, Chart, cell_colour, layer_axis, rows
from sweep.compare.query.database import SCALES
from sweep.compare.render.theme import DIVERGING


def by_layer(a: Answer) -> Chart:
    """Scale by layer of each cell, with a band of ± 2 standard errors."""
    query = f"""
        SELECT cell, site, layer, s, s - 2 * se, s + 2 * se FROM (
            SELECT cell, site, layer, avg(scale) AS s, sqrt(avg(scale_se ** 2)) AS se
            FROM {a.runs.source(SCALES, a.shown)} GROUP BY cell, site, layer)
        ORDER BY cell, site, layer"""
    found = [(a.runs.labels[c], *rest) for c, *rest in a.runs.sql(query)]
    colour, dash = cell_colour(a)
    x = {"field": "layer", "type": "quantitative", "axis": layer_axis(), "scale": {"nice": False, "padding": 8}}
    y = {
        "field": "scale",
        "type": "quantitative",
        "title": "scale",
        "scale": {"type": "log", "nice": False, "padding": 10},
        "axis": {"format": "~g", "tickCount": 8},
    }
    tip = [
        {"field": "cell"},
        {"field": "layer"},
        {"field": "scale", "format": ".4g"},
        {"field": "low", "format": ".4g"},
        {"field": "high", "format": ".4g"},
    ]
    return Chart(
        "scales",
        "Scale by layer",
        "Every cell's scale at the chosen site; the band is ± 2 standard errors. Groups of a layer are averaged.",
        {
            "data": rows(("cell", "site", "layer", "scale", "low", "high"), found),
            "transform": [{"filter": f"{AT_SITE} && {SHOWN}"}],
            "height": HEIGHT,
            "encoding": {"x": x, "color": colour},
            "layer": [
                {
                    "mark": {"type": "area", "opacity": 0.16},
                    "encoding": {
                        "y": {"field": "low", "type": "quantitative", "title": "scale"},
                        "y2": {"field": "high"},
                    },
                    "transform": [{"filter": "datum.low > 0"}],
                },
                {
                    "mark": {"type": "line", "strokeWidth": 2},
                    "encoding": {"y": y, "strokeDash": dash},
                    "params": [ZOOM],
                },
                {"mark": {"type": "circle", "size": 34, "opacity": 1}, "encoding": {"y": y, "tooltip": tip}},
            ],
        },
    )


def difference(a: Answer, metric: str) -> Chart | None:
    """Heat map, layer x cell, of the difference to the baseline: of the scale in %, or of the SQNR in dB."""
    base: dict[int, int] = {}
    for v in a.verdicts:
        for cell in v.contrast.cells:
            base.setdefault(cell, v.contrast.cells[v.contrast.baseline])
    pairs = [(n, base[n]) for n in a.shown if n in base and base[n] != n]
    if not pairs:
        return None
    formula = "100 * (o.scale / b.scale - 1)" if metric == "scale" else "o.sqnr_db - b.sqnr_db"
    query = f"""
        WITH pairs(o, b) AS (VALUES {", ".join(map(str, pairs))})
        SELECT pairs.o, o.site, o.layer, {formula} FROM pairs JOIN points o ON o.cell = pairs.o
        JOIN points b ON b.cell = pairs.b AND b.layer = o.layer AND b.site = o.site ORDER BY pairs.o, o.site, o.layer"""
    labels = a.runs.labels
    found = [(labels[c], labels[base[c]], *rest) for c, *rest in a.runs.sql(query)]
    steps = (0.01, 1, 10, 50) if metric == "scale" else (0.1, 1, 3, 10)
    unit = "%" if metric == "scale" else "dB"
    names, bucket = _buckets(steps)
    rounded = "format(datum.difference, '+.3~r')"
    return Chart(
        f"difference-{metric}",
        "Difference of scale to the baseline" if metric == "scale" else "Difference of SQNR to the baseline",
        "Orange: larger than the baseline's; blue: smaller. Grey: "
        + ("less than 0.01 % apart." if metric == "scale" else "less than 0.1 dB, too little to matter."),
        {
            "data": rows(("cell", "baseline", "site", "layer", "difference"), found),
            "transform": [
                {"filter": f"{AT_SITE} && {SHOWN}"},
                {"calculate": f"{rounded} + ' {unit}'", "as": "shown"},
                {"calculate": bucket, "as": "bucket"},
            ],
            "height": 22 * len(pairs),
            "mark": {"type": "rect", "stroke": "var(--paper)", "strokeWidth": 1},
            "encoding": {
                "x": {"field": "layer", "type": "ordinal", "title": "layer", "axis": {"labelAngle": 0}},
                "y": {
                    "field": "cell",
                    "type": "nominal",
                    "title": None,
                    "sort": None,
                    "axis": {"labelLimit": 230, "domain": False},
                },
                "color": {
                    "field": "bucket",
                    "type": "ordinal",
                    "sort": None,
                    "scale": {"domain": names, "range": [f"var(--d{i})" for i in range(len(DIVERGING))]},
                    "legend": {
                        "title": unit,
                        "orient": "top",
                        "columns": 9,
                        "symbolType": "square",
                        "symbolSize": 130,
                        "symbolStrokeWidth": 0,
                    },
                },
                "tooltip": [
                    {"field": "cell"},
                    {"field": "baseline"},
                    {"field": "layer"},
                    {"field": "shown", "title": "difference"},
                ],
            },
        },
    )


def _buckets(steps: tuple[float, ...]) -> tuple[list[str], str]:
    """Names of the classes from far below to far above the baseline, and the expression that picks one."""
    below = [f"−{low:g}…−{high:g}" for low, high in zip(steps[:0:-1], steps[-2::-1], strict=True)]
    names = [f"< −{steps[-1]:g}", *below, "≈ 0", *(b.replace("−", "+") for b in _mirrored(below)), f"> +{steps[-1]:g}"]
    borders = [-s for s in reversed(steps)] + list(steps)
    expression = f"'{names[-1]}'"
    for name, border in zip(names[-2::-1], reversed(borders), strict=True):
        expression = f"datum.difference < {border} ? '{name}' : {expression}"
    return names, expression


def _mirrored(below: list[str]) -> list[str]:
    return ["…".join(reversed(name.split("…"))) for name in reversed(below)]
