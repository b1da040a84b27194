"""Scale against number of samples, and the scales of a layer's groups."""

from __future__ import annotations

from sweep.compare.analysis.significance import freedom, quantile
from sweep.compare.answer import Answer
from sweep.compare.charts.base import AT_SITE, HEIGHT, SHOWN, ZOOM, Chart, cell_colour, rows
from sweep.compare.query.database import CONVERGENCE, SCALES
from sweep.compare.tables.pivots import pick

LAYERS = 8


def samples(a: Answer) -> Chart | None:
    """Scale after so many samples, relative to the scale after all, with its 95 % band."""
    source = a.runs.source(CONVERGENCE, a.shown)
    if source is None:
        return None
    layers = pick([layer for (layer,) in a.runs.sql(f"SELECT DISTINCT layer FROM {source} ORDER BY layer")], LAYERS)
    if not layers:
        return None
    query = f"""
        WITH c AS (FROM {source}),
        last AS (SELECT cell, layer, site, arg_max(scale, folds) AS final FROM c GROUP BY ALL)
        SELECT c.cell, site, layer, samples, 100 * (scale / final - 1), 100 * scale_se / final, c.folds
        FROM c JOIN last USING (cell, layer, site) WHERE final > 0 AND layer IN ({", ".join(map(str, layers))})
        ORDER BY ALL"""
    found = []
    for c, site, layer, count, change, error, folds in a.runs.sql(query):
        half = quantile(0.95, freedom(folds)) * error if error is not None and folds > 2 else None
        band = (change - half, change + half) if half is not None else (None, None)
        found.append((a.runs.labels[c], site, layer, count, change, *band))
    colour, dash = cell_colour(a)
    x = {
        "field": "samples",
        "type": "quantitative",
        "title": "calibration samples",
        "scale": {"nice": False, "padding": 8},
    }
    y = {"field": "change", "type": "quantitative", "title": "scale less final scale, %"}
    tip = [{"field": "cell"}, {"field": "samples"}, {"field": "change", "format": "+.3f", "title": "change, %"}]
    return Chart(
        "samples",
        "Scale against number of samples",
        "Scale after so many samples, relative to the scale after all of them, at the chosen site and layer; the band "
        "is its 95 % confidence (from three folds on).",
        {
            "data": rows(("cell", "site", "layer", "samples", "change", "low", "high"), found),
            "transform": [{"filter": f"{AT_SITE} && datum.layer === layer && {SHOWN}"}],
            "height": HEIGHT,
            "encoding": {"x": x, "color": colour},
            "layer": [
                {
                    "mark": {"type": "area", "opacity": 0.12, "clip": True},
                    "transform": [{"filter": "isValid(datum.low)"}],
                    "encoding": {
                        "y": {"field": "low", "type": "quantitative", "title": "scale less final scale, %"},
                        "y2": {"field": "high"},
                    },
                },
                {
                    "mark": {"type": "line", "strokeWidth": 2},
                    "encoding": {"y": y, "strokeDash": dash},
                    "params": [ZOOM],
                },
                {"mark": {"type": "circle", "size": 34, "opacity": 1}, "encoding": {"y": y, "tooltip": tip}},
            ],
        },
        {"layer": ("layer", layers, layers[len(layers) // 2])},
    )


def groups(a: Answer) -> Chart | None:
    """The scales of one layer's groups, head group x dim group, as a small heat map."""
    grouped = [n for n in a.shown if a.runs.listed[n].granularity != "tensor"][:4]
    source = a.runs.source(SCALES, grouped) if grouped else None
    if source is None:
        return None
    query = f"""
        SELECT cell, layer, coalesce(ssd_group, 0), head_group, coalesce(dim_group, 0), scale,
               scale / avg(scale) OVER (PARTITION BY cell, layer) FROM {source}
        WHERE head_group IS NOT NULL AND site = 'x_conv_out' ORDER BY ALL"""
    found = [(a.runs.labels[c], *rest) for c, *rest in a.runs.sql(query)]
    if not found:
        return None
    layers = pick(sorted({row[1] for row in found}), LAYERS)
    cells = list(dict.fromkeys(row[0] for row in found))
    found = [row for row in found if row[1] in layers]
    ssd = max(row[2] for row in found) + 1
    tip = [{"field": n} for n in ("ssd_group", "head_group", "dim_group")]
    tip += [{"field": "scale", "format": ".4g"}, {"field": "relative", "format": ".2f", "title": "of the layer's mean"}]
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
        },
    }
    return Chart(
        "groups",
        "The scales of a layer's groups",
        "One scale per (ssd_group, head_group, dim_group) of x after SiLU; colour is the scale relative to the layer's "
        "mean. Per group, not per channel.",
        {
            "data": rows(("cell", "layer", "ssd_group", "head_group", "dim_group", "scale", "relative"), found),
            "transform": [
                {"filter": "datum.layer === layer && datum.cell === cell"},
                {
                    "calculate": "datum.head_group" if ssd == 1 else "datum.ssd_group + ' · ' + datum.head_group",
                    "as": "row",
                },
            ],
            "height": (40 if ssd == 1 else 22) * len({(row[2], row[3]) for row in found}),
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
                    "mark": {
                        "type": "text",
                        "fontSize": 12,
                        "fontWeight": 600,
                        "color": "var(--ink)",
                        "stroke": "var(--paper)",
                        "strokeWidth": 3,
                        "strokeJoin": "round",
                        "strokeOpacity": 0.75,
                        "tooltip": None,
                    },
                    "encoding": {**encoding, "text": {"field": "scale", "format": ".2~g"}},
                },
                {
                    "mark": {"type": "text", "fontSize": 12, "fontWeight": 600, "color": "var(--ink)"},
                    "encoding": {**encoding, "text": {"field": "scale", "format": ".2~g"}, "tooltip": tip},
                },
            ],
        },
        {"cell": ("cell", cells, cells[0]), "layer": ("layer", layers, layers[0])},
    )
