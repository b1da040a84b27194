"""The chart that answers: cost against setting, a panel per number format."""

from __future__ import annotations

import math
from typing import Any

from sweep.compare.analysis.cost import MEASURED
from sweep.compare.charts.base import Chart, Spec, points, rows
from sweep.compare.charts.measure import Measure, band, measure
from sweep.compare.facts import Answer
from sweep.compare.query.labels import told_apart
from sweep.compare.render.theme import SHAPES, by_method, series

PANEL = 4  # formats from which panels stand in two rows
FIELDS = ("cell", "context", "format", "method", "setting", "alpha", "clipped", "cost", "low", "high", "missing")


def cost(a: Answer) -> Chart | None:
    """Cost against alpha, a line per method with its error band, and a reference line for methods without an alpha;
    where no alpha was swept, a row per setting."""
    m = measure(a)
    if len(m.cells) < 2:
        return None
    table = _rows(a, m)
    contexts = list(dict.fromkeys(row[1] for row in table))
    formats = list(dict.fromkeys(row[2] for row in table))
    alphas = {(row[1], row[2], row[3], row[5]) for row in table if row[5] is not None}
    swept = len(alphas) > len({key[:3] for key in alphas})
    unit = m.unit if len(formats) == 1 else None
    colours = _colours(a, table)
    inner = _by_alpha(m, table, unit, colours) if swept else _by_setting(m, table, unit, colours)
    columns = min(len(formats), 2 if len(formats) == PANEL else 3)
    settings = len({row[4] for row in table})
    tall = 270 if swept else 50 + 30 * settings
    panel = {**inner, "height": tall if len(formats) < PANEL else min(tall, 150)}
    spec: Spec = {
        "data": rows(FIELDS, table),
        "transform": [{"filter": "datum.context === context && indexof(hidden, datum.cell) < 0"}],
    }
    if len(formats) == 1:
        spec |= panel
    else:
        header = {"title": m.unit, "titleAnchor": "start", "titleColor": "var(--ink-2)", "titleFontWeight": 500}
        header |= {"labelFontWeight": 600, "labelColor": "var(--ink)", "labelFontSize": 12, "titleFontSize": 11.5}
        spec |= {
            "facet": {"field": "format", "type": "nominal", "sort": formats, "header": header},
            "columns": columns,
            "spec": panel,
            "spacing": 14,
        }
    model = contexts[0] if len(contexts) == 1 else ""
    return Chart(
        "cost",
        "answer",
        0,
        f"What each setting costs: {m.name}{f', {model}' if model else ''}",
        _caption(m, swept),
        spec,
        {"context": ("for", contexts, contexts[0])},
        panels=columns if len(formats) > 1 else 1,
    )


def _caption(m: Measure, swept: bool) -> str:
    better = "Less is better" if m.lower else "More is better, but what it costs the network was not measured"
    band = "Bands and bars are ± 2 standard errors" + (" over the texts." if m.name == MEASURED else ".")
    lines = " A horizontal line is a method that has no alpha." if swept else ""
    without = {
        MEASURED: " Some cells were not evaluated.",
    }.get(m.name, " Clips of groups that are read off the channels' maxima have no distribution to tell it from.")
    rest = f" Not drawn: contexts that another measure ranks ({m.left_out})." if m.left_out else ""
    return f"{better}. {band}{lines}{without if m.unknown else ''}{rest}"


def _rows(a: Answer, m: Measure) -> list[tuple[Any, ...]]:
    several, told = len(_values(a, "model")) > 1, told_apart(a.runs.listed)
    panels = [k for k in ("format", "granularity") if len(_values(a, k)) > 1] or ["format"]
    table = []
    for n in (n for n in a.shown if n in m.cells or n in m.unknown):
        c, e = a.runs.listed[n], m.cells.get(n)
        context = " · ".join(filter(None, (c.model if several else "", told[n]))) or c.model
        panel = " · ".join(str(getattr(c, k)) for k in panels)
        clipped = None if c.alpha is None else 1 - c.alpha
        label = a.runs.labels[n]
        known = (None, None, None, m.missing) if e is None else (e.value, *band(e, m.log), None)
        table.append((label, context, panel, c.method, c.setting, c.alpha, clipped or None, *known))
    return table


def _values(a: Answer, key: str) -> set[Any]:
    return {getattr(a.runs.listed[n], key) for n in a.shown}


def _colours(a: Answer, table: list[tuple[Any, ...]]) -> tuple[Spec, Spec, Spec]:
    """Colour and shape by method, in one legend, and the fill by setting: as in all other charts."""
    s = series([a.runs.listed[n] for n in a.shown])
    names = sorted({row[3] for row in table})
    settings = list(dict.fromkeys(row[4] for row in table))
    fills = [f"var(--c{s.settings.index(setting)})" for setting in settings]
    first = {row[3]: fills[settings.index(row[4])] for row in table}
    colours = [f"var(--{name})" if name in by_method() else first[name] for name in names]
    legend = {"title": None, "orient": "top", "columns": 5, "symbolSize": 60, "symbolOpacity": 1}
    common: Spec = {"field": "method", "type": "nominal", "legend": legend if len(names) > 1 else None}
    colour = {**common, "scale": {"domain": names, "range": colours}}
    fill: Spec = {"field": "setting", "type": "nominal", "legend": None, "scale": {"domain": settings, "range": fills}}
    return colour, {**common, "scale": {"domain": names, "range": list(SHAPES[: len(names)])}}, fill


def _axis(m: Measure) -> Spec:
    scale: Spec = {"type": "log", "nice": False, "padding": 8} if m.log else {"zero": False, "padding": 8}
    tick: Spec = {"format": "~g", "tickCount": 5} if m.log else {"tickCount": 5}
    return {"field": "cost", "type": "quantitative", "title": m.unit, "scale": scale, "axis": tick}


def _tip(m: Measure) -> list[Spec]:
    numbers = [("cost", m.name), ("low", "− 2 errors"), ("high", "+ 2 errors")]
    return [{"field": "cell"}, *({"field": f, "title": t, "format": m.digits} for f, t in numbers)]


def _by_alpha(m: Measure, table: list[tuple[Any, ...]], unit: str | None, colours: tuple[Spec, Spec, Spec]) -> Spec:
    colour, shape, fill = colours
    x = {
        "field": "clipped",
        "type": "quantitative",
        "title": "alpha (share of values not clipped)" if unit else "alpha",
        "scale": {"type": "log", "reverse": True, "padding": 10, "nice": False},
        "axis": {
            "labelExpr": "format(1 - datum.value, '.6~f')",
            "values": [0.5, 0.1, 0.01, 0.001, 0.0001, 0.00001, 0.000001],
            "labelFlush": True,
            "labelFontSize": 10,
        },
    }
    y, tip = {**_axis(m), "title": unit}, _tip(m)
    band = {"y": {**y, "field": "low"}, "y2": {"field": "high"}}
    known = "isValid(datum.cost)"
    with_alpha, without = ([{"filter": f"{known} && {part}isValid(datum.clipped)"}] for part in ("", "!"))
    missing = [{"filter": f"!{known}"}, {"calculate": "datum.setting + ': ' + datum.missing", "as": "said"}]
    return {
        "encoding": {"color": colour},
        "layer": [
            {
                "transform": [*with_alpha, {"filter": "isValid(datum.low)"}],
                "mark": {"type": "area", "opacity": 0.16},
                "encoding": {"x": x, **band},
            },
            {"transform": with_alpha, "mark": {"type": "line", "strokeWidth": 2}, "encoding": {"x": x, "y": y}},
            {
                "transform": with_alpha,
                "mark": points(46),
                "encoding": {"x": x, "y": y, "shape": shape, "color": None, "fill": fill, "tooltip": tip},
            },
            {
                "transform": without,
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": {"y": y, "tooltip": tip, "strokeDash": _dashes(table)},
            },
            {
                "transform": without,
                "mark": {**points(46), "clip": False},
                "encoding": {"x": {"value": 0}, "y": y, "shape": shape, "tooltip": tip},
            },
            {
                "transform": missing,
                "mark": {"type": "text", "align": "left", "fontSize": 11, "fontStyle": "italic"},
                "encoding": {"x": {"value": 8}, "y": {"value": 10}, "text": {"field": "said"}},
            },
        ],
    }


def _dashes(table: list[tuple[Any, ...]]) -> Spec:
    """A dash for every method without an alpha; the legend of colours and shapes names them."""
    names = sorted({row[3] for row in table if row[5] is None})
    dashes = [[6, 3], [2, 2], [9, 3, 2, 3]]
    scale = {"domain": names, "range": [dashes[i % len(dashes)] for i in range(len(names))]}
    return {"field": "method", "type": "nominal", "scale": scale, "legend": None}


def _by_setting(m: Measure, table: list[tuple[Any, ...]], unit: str | None, colours: tuple[Spec, Spec, Spec]) -> Spec:
    colour, shape, fill = colours
    sign = 1.0 if m.lower else -1.0
    order = [row[4] for row in sorted(table, key=lambda row: math.inf if row[7] is None else sign * row[7])]
    y: Spec = {"field": "setting", "type": "nominal", "title": None, "sort": list(dict.fromkeys(order))}
    y["axis"] = {"labelLimit": 150, "grid": True, "domain": False}
    axis = {**_axis(m), "title": unit}
    bar = {"x": {**axis, "field": "low"}, "x2": {"field": "high"}}
    return {
        "encoding": {"color": colour, "y": y},
        "layer": [
            {
                "transform": [{"filter": "isValid(datum.low)"}],
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": {**bar, "color": None, "stroke": fill},
            },
            {
                "transform": [{"filter": "isValid(datum.cost)"}],
                "mark": points(60),
                "encoding": {"x": axis, "shape": shape, "color": None, "fill": fill, "tooltip": _tip(m)},
            },
            {
                "transform": [{"filter": "!isValid(datum.cost)"}],
                "mark": {"type": "text", "align": "left", "fontSize": 11, "fontStyle": "italic"},
                "encoding": {"x": {"value": 8}, "text": {"field": "missing"}},
            },
        ],
    }


CHARTS = (cost,)
