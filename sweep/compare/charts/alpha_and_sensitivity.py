"""What a setting costs: SQNR against alpha, and how sensitive the model is to each layer."""

from __future__ import annotations

from sweep.compare.answer import Answer
from sweep.compare.charts.base import AT_SITE, HEIGHT, SHOWN, ZOOM, Chart, cell_colour, layer_axis, rows


def sqnr_by_alpha(a: Answer) -> Chart | None:
    """SQNR against alpha, a line per layer, the optimum of each marked."""
    questions = [
        v.contrast for v in a.verdicts if v.contrast.knob == "alpha" and not v.contrast.context.count("minmax")
    ]
    contexts = {cell: q.context for q in questions for cell in q.cells}
    if not contexts:
        return None
    numbers = ", ".join(map(str, contexts))
    query = (
        f"SELECT cell, site, layer, sqnr_db FROM points WHERE cell IN ({numbers}) AND isfinite(sqnr_db) ORDER BY ALL"
    )
    found = [
        (contexts[c], site, layer, a.runs.listed[c].asked_alpha, 1 - (a.runs.listed[c].asked_alpha or 0.0), db)
        for c, site, layer, db in a.runs.sql(query)
    ]
    found = [row for row in found if row[4] > 0]
    if not found:
        return None
    layers = sorted({row[2] for row in found})
    colour = {
        "field": "layer",
        "type": "ordinal",
        "scale": {"domain": layers, "range": [f"var(--l{n})" for n in range(len(layers))]},
        "legend": {"title": "layer", "orient": "top", "columns": 12, "symbolType": "stroke"},
    }
    x = {
        "field": "clipped",
        "type": "quantitative",
        "title": "alpha (share of values not clipped)",
        "scale": {"type": "log", "reverse": True, "padding": 12, "nice": False},
        "axis": {
            "labelExpr": "format(1 - datum.value, '.6~f')",
            "values": [0.5, 0.1, 0.01, 0.001, 0.0001, 0.00001, 0.000001],
        },
    }
    y = {"field": "sqnr", "type": "quantitative", "title": "SQNR, dB", "scale": {"zero": False, "padding": 10}}
    tip = [
        {"field": "layer"},
        {"field": "alpha", "format": ".7~f"},
        {"field": "sqnr", "format": ".2f", "title": "SQNR, dB"},
    ]
    return Chart(
        "sqnr-alpha",
        "Where is the best alpha?",
        "SQNR at the chosen site, a line per layer; a ring marks the best alpha of each layer.",
        {
            "data": rows(("context", "site", "layer", "alpha", "clipped", "sqnr"), found),
            "transform": [{"filter": f"{AT_SITE} && datum.context === context"}],
            "height": HEIGHT,
            "encoding": {"x": x, "y": y, "color": colour},
            "layer": [
                {"mark": {"type": "line", "strokeWidth": 1.8}, "params": [ZOOM]},
                {"mark": {"type": "circle", "size": 30, "opacity": 1}, "encoding": {"tooltip": tip}},
                {
                    "mark": {"type": "point", "size": 150, "strokeWidth": 2, "filled": False},
                    "encoding": {"tooltip": tip},
                    "transform": [
                        {"joinaggregate": [{"op": "max", "field": "sqnr", "as": "top"}], "groupby": ["layer"]},
                        {"filter": "datum.sqnr === datum.top"},
                    ],
                },
            ],
        },
        {"context": ("for", [q.context for q in questions], questions[0].context)},
    )


def sensitivity(a: Answer) -> Chart | None:
    """Loss in perplexity with only this layer quantized, and with all but this one, where it was evaluated."""
    found = []
    for n in a.shown:
        e = a.runs.listed[n].evaluation or {}
        reference = (e.get("baseline") or {}).get("perplexity")
        for entry in e.get("layers") or []:
            for which, words in (("only", "only this layer quantized"), ("all_but", "all layers but this one")):
                value = (entry.get(which) or {}).get("perplexity")
                if value is not None and reference is not None:
                    found.append((a.runs.labels[n], entry["layer"], words, value - reference))
    if not found:
        return None
    kinds = list(dict.fromkeys(row[2] for row in found))
    colour, dash = cell_colour(a)
    x = {"field": "layer", "type": "quantitative", "axis": layer_axis(), "scale": {"nice": False, "padding": 8}}
    y = {"field": "loss", "type": "quantitative", "title": "perplexity less unquantized"}
    tip = [{"field": "cell"}, {"field": "layer"}, {"field": "loss", "format": "+.4f"}]
    return Chart(
        "sensitivity",
        "Which layers are sensitive?",
        "Perplexity less that of the unquantized model on the same text.",
        {
            "data": rows(("cell", "layer", "which", "loss"), found),
            "transform": [{"filter": f"{SHOWN} && datum.which === which"}],
            "height": HEIGHT,
            "encoding": {"x": x, "y": y, "color": colour},
            "layer": [
                {"mark": {"type": "line", "strokeWidth": 1.8}, "encoding": {"strokeDash": dash}, "params": [ZOOM]},
                {"mark": {"type": "circle", "size": 40, "opacity": 1}, "encoding": {"tooltip": tip}},
            ],
        },
        {"which": ("with", kinds, kinds[0])},
    )
