"""The clip of every cell, layer by layer."""

from __future__ import annotations

from sweep.compare.analysis.place_errors import errors
from sweep.compare.charts.base import (
    AT_SITE,
    HEIGHT,
    SERIES,
    SHOWN,
    ZOOM,
    Chart,
    cell_colour,
    layer_x,
    line,
    only,
    points,
    rows,
    who,
)
from sweep.compare.facts import Answer
from sweep.compare.query.database import SCALES


def by_layer(a: Answer) -> Chart:
    """The clip by layer of each cell, with a band of ± 2 standard errors. Clips of several formats are comparable,
    scales are not: a scale is the clip over the format's largest number, 127 for int8 and 7 for int4."""
    formats = len({a.runs.listed[n].format for n in a.shown}) > 1
    query = f"""
        SELECT cell, site, layer, avg(clip ORDER BY clip), avg(scale ORDER BY scale),
               CASE WHEN count(*) = 1 THEN any_value(scale_se) END
        FROM {a.runs.source(SCALES, a.shown)} WHERE clip > 0 AND scale > 0
        GROUP BY cell, site, layer ORDER BY cell, site, layer"""
    grouped = [n for n in a.shown if a.runs.listed[n].granularity != "tensor"]
    of_mean = errors(a.runs, grouped, "avg(scale ORDER BY scale) FILTER (scale > 0)")  # errors of groups go together
    names, table = who(a), []
    for c, site, layer, clip, scale, se in a.runs.sql(query):
        error = of_mean.get((c, layer, site)) if se is None else se
        ends = (None, None) if error is None else (clip - 2 * error * clip / scale, clip + 2 * error * clip / scale)
        table.append((*names[c], site, layer, clip, *ends, scale, error))
    look, models = cell_colour(a), {a.runs.listed[n].model for n in a.shown}
    y = {
        "field": "clip",
        "type": "quantitative",
        "title": "clip",
        "scale": {"type": "log", "nice": False, "padding": 10},
        "axis": {"format": "~g", "tickCount": 8},
    }
    tip = [{"field": "cell"}, {"field": "layer"}]
    titles = (("clip", "clip"), ("low", "− 2 errors"), ("high", "+ 2 errors"), ("scale", "scale"))
    tip += [{"field": f, "title": t, "format": ".4g"} for f, t in titles]
    tip += [{"field": "error", "title": "± of the scale", "format": ".2~g"}]
    return Chart(
        "scales",
        "scales",
        0,
        f"Clip by layer{f', {next(iter(models))}' if len(models) == 1 else ''}",
        "Where each cell clips at the chosen site; the band is ± 2 standard errors, groups of a layer are averaged. "
        + ("The scale is the clip over the format's largest number, so scales of several formats are no " if formats
           else "The scale is the clip over the format's largest number.")
        + ("comparison; clips are." if formats else ""),
        {
            "data": rows((*SERIES, "site", "layer", "clip", "low", "high", "scale", "error"), table),
            "transform": [{"filter": f"{AT_SITE} && {SHOWN}"}],
            "height": HEIGHT,
            "encoding": {"x": layer_x(), "color": look["color"], "detail": {"field": "cell"}},
            "layer": [
                {
                    "mark": {"type": "area", "opacity": 0.14},
                    "encoding": {
                        "y": {"field": "low", "type": "quantitative", "title": "clip"},
                        "y2": {"field": "high"},
                    },
                    "transform": [{"filter": "datum.low > 0"}],
                },
                {"mark": line(), "encoding": {"y": y, **only(look, "strokeDash")}, "params": [ZOOM]},
                {"mark": points(), "encoding": {"y": y, **only(look, "shape"), "tooltip": tip}},
            ],
        },
    )  # fmt: skip


CHARTS = (by_layer,)
