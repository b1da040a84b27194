"""The range after SiLU relative to the range before."""

from __future__ import annotations

from sweep.compare.analysis.place_errors import errors
from sweep.compare.analysis.silu_gain import is_quantile
from sweep.compare.charts.base import SERIES, SHOWN, ZOOM, Chart, cell_colour, layer_x, line, only, points, rows, who
from sweep.compare.facts import Answer
from sweep.compare.query.database import SCALES
from sweep.quantization.sites import ordered

FIELDS = ("of", "layer", "gain", "error", "ratio", "ratio_error")


def gain(a: Answer) -> Chart | None:
    """SiLU gain by layer: never above the line at 1."""
    numbers = [n for n in a.shown if is_quantile(a.runs.listed[n].method)]
    source = a.runs.source(SCALES, numbers)
    if source is None:
        return None
    query = f"""
        SELECT cell, site, layer, avg(silu_gain), avg(ratio) FROM {source} WHERE silu_gain IS NOT NULL
        GROUP BY cell, site, layer ORDER BY ALL"""
    names = who(a)
    of_gain, of_ratio = (errors(a.runs, numbers, f"avg({column})") for column in ("silu_gain", "ratio"))
    table = []
    for c, site, layer, value, ratio in a.runs.sql(query):
        se, ratio_se = (known.get((c, layer, site)) for known in (of_gain, of_ratio))
        table.append((*names[c], site, layer, value, se, ratio, ratio_se))
    if not table:
        return None
    sites = ordered({row[3] for row in table})
    look, x = cell_colour(a), layer_x()
    y = {
        "field": "gain",
        "type": "quantitative",
        "title": "scale after SiLU / before",
        "scale": {"zero": False, "padding": 8},
    }
    tip = [
        {"field": "cell"},
        {"field": "layer"},
        {"field": "gain", "format": ".4f"},
        {"field": "error", "title": "±", "format": ".2~g"},
        {"field": "ratio", "title": "ratio to the weight scale", "format": ".2f"},
        {"field": "ratio_error", "title": "± of the ratio", "format": ".2~g"},
    ]
    models = {a.runs.listed[n].model for n in numbers}
    return Chart(
        "gain",
        "range",
        10,
        f"Scale after SiLU over scale before{f', {next(iter(models))}' if len(models) == 1 else ''}",
        "SiLU gain by layer; the band is ± 2 standard errors, cut at 1, which no "
        "quantile exceeds. "
        "The dashed line at 1 means no change; above it SiLU would expand the range.",
        {
            "data": rows((*SERIES, *FIELDS), table),
            "transform": [{"filter": f"datum.of === of && {SHOWN}"}],
            "height": 240,
            "layer": [
                {
                    "transform": [
                        {"filter": "isValid(datum.error)"},
                        {"calculate": "datum.gain - 2 * datum.error", "as": "low"},
                        {"calculate": "max(datum.gain, min(datum.gain + 2 * datum.error, 1))", "as": "high"},
                    ],
                    "mark": {"type": "area", "opacity": 0.14, "clip": True},
                    "encoding": {
                        "x": x,
                        "y": {**y, "field": "low"},
                        "y2": {"field": "high"},
                        **only(look, "color"),
                        "detail": {"field": "cell"},
                    },
                },
                {
                    "mark": line(),
                    "encoding": {"x": x, "y": y, **only(look, "color", "strokeDash"), "detail": {"field": "cell"}},
                    "params": [ZOOM],
                },
                {"mark": points(), "encoding": {"x": x, "y": y, **only(look, "color", "shape"), "tooltip": tip}},
                {
                    "data": {"values": [{"one": 1}]},
                    "mark": {"type": "rule", "strokeDash": [5, 4], "strokeWidth": 1.5},
                    "encoding": {"y": {"field": "one", "type": "quantitative"}},
                },
            ],
        },
        {"of": ("at", sites, sites[0])},
    )


CHARTS = (gain,)
