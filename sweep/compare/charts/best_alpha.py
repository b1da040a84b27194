"""The best alpha of every layer."""

from __future__ import annotations

from sweep.compare.charts.base import AT_SITE, SHOWN, Chart, rows
from sweep.compare.facts import Answer


def best_alpha(a: Answer) -> Chart | None:
    """Heat map, alpha x layer, of the SQNR below the layer's best; a ring marks the best."""
    questions = [v.contrast for v in a.verdicts if v.contrast.knob == "alpha" and "minmax" not in v.contrast.context]
    contexts = {cell: q.context for q in questions for cell in q.cells if cell in a.shown}
    if not contexts:
        return None
    numbers = ", ".join(map(str, contexts))
    query = (
        f"SELECT cell, site, layer, sqnr_db FROM points WHERE cell IN ({numbers}) AND isfinite(sqnr_db) ORDER BY ALL"
    )
    table = [
        (a.runs.labels[c], contexts[c], site, layer, a.runs.listed[c].alpha, f"{a.runs.listed[c].alpha:.10g}", db)
        for c, site, layer, db in a.runs.sql(query)
        if a.runs.listed[c].alpha is not None
    ]
    if not table:
        return None
    alphas = [text for _, text in sorted({(row[4], row[5]) for row in table}, reverse=True)]
    names, borders = ["best", "0.1", "0.3", "1", "3", "10", "30"], (0.1, 0.3, 1, 3, 10, 30)
    step = "7"
    for i, border in reversed(list(enumerate(borders))):
        step = f"datum.below < {border} ? {i} : {step}" if i else f"datum.below < {border} ? 0 : {step}"
    x = {"field": "layer", "type": "ordinal", "title": "layer", "axis": {"labelAngle": 0}}
    y = {"field": "alpha", "type": "nominal", "title": "alpha", "sort": alphas, "axis": {"domain": False}}
    legend = {
        "title": "dB below the layer's best",
        "orient": "top",
        "symbolType": "square",
        "symbolSize": 130,
        "symbolStrokeWidth": 0,
        "columns": 7,
        "labelExpr": f"{['< 0.1', *(f'from {n}' for n in names[1:])]}[datum.value]",
    }
    domain = list(range(7))
    scale = {"domain": domain, "range": [f"var(--s{i})" for i in domain]}
    tip = [{"field": "alpha"}, {"field": "layer"}, {"field": "sqnr", "title": "SQNR, dB", "format": ".2f"}]
    tip += [{"field": "below", "title": "below the best, dB", "format": ".2f"}]
    model = f", {a.runs.listed[a.shown[0]].model}" if len({a.runs.listed[n].model for n in a.shown}) == 1 else ""
    return Chart(
        "best-alpha",
        "where",
        10,
        f"The best alpha of every layer{model}",
        "SQNR at the chosen site; a ring marks the best alpha of each layer. By squared error, whatever a layer is "
        "worth to the network.",
        {
            "data": rows(("cell", "context", "site", "layer", "value", "alpha", "sqnr"), table),
            "transform": [
                {"filter": f"{AT_SITE} && datum.context === context && {SHOWN}"},
                {"joinaggregate": [{"op": "max", "field": "sqnr", "as": "top"}], "groupby": ["layer"]},
                {"calculate": "datum.top - datum.sqnr", "as": "below"},
                {"calculate": f"min(6, {step})", "as": "step"},
            ],
            "height": 27 * len(alphas),
            "encoding": {"x": x, "y": y},
            "layer": [
                {
                    "mark": {"type": "rect", "stroke": "var(--paper)", "strokeWidth": 1},
                    "encoding": {
                        "color": {"field": "step", "type": "ordinal", "scale": scale, "legend": legend},
                        "tooltip": tip,
                    },
                },
                {
                    "transform": [{"filter": "datum.below === 0"}],
                    "mark": {"type": "point", "size": 90, "strokeWidth": 2, "filled": False, "color": "var(--ink)"},
                    "encoding": {"tooltip": tip},
                },
            ],
        },
        {"context": ("for", [q.context for q in questions], questions[0].context)},
    )


CHARTS = (best_alpha,)
