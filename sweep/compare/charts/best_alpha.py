"""The best alpha of every layer."""

from __future__ import annotations

from collections import defaultdict

from sweep.compare.analysis.place_errors import Place, difference_error, sqnr_replicates, unresolved
from sweep.compare.analysis.significance import jackknife
from sweep.compare.charts.base import AT_SITE, SHOWN, TIED, Chart, rows
from sweep.compare.facts import Answer

FIELDS = ("cell", "context", "site", "layer", "alpha", "sqnr", "error", "below", "below_error", "mark")


def best_alpha(a: Answer) -> Chart | None:
    """Heat map, alpha x layer, of the SQNR below the layer's best; the best is marked, and what its error does not tell
    from it."""
    questions = [v.contrast for v in a.verdicts if v.contrast.knob == "alpha" and "minmax" not in v.contrast.context]
    contexts = {cell: q.context for q in questions for cell in q.cells if cell in a.shown}
    if not contexts:
        return None
    numbers = ", ".join(map(str, contexts))
    query = (
        f"SELECT cell, site, layer, sqnr_db FROM points WHERE cell IN ({numbers}) AND isfinite(sqnr_db) ORDER BY ALL"
    )
    at = {(c, layer, site): db for c, site, layer, db in a.runs.sql(query) if a.runs.listed[c].alpha is not None}
    marked, alpha = _marked(a, contexts, at), {c: a.runs.listed[c].alpha for c in contexts}
    table = [
        (a.runs.labels[c], contexts[c], site, layer, f"{alpha[c]:.10g}", db, *rest)
        for ((c, layer, site), db), rest in zip(at.items(), marked, strict=True)
    ]
    if not table:
        return None
    alphas = sorted({row[4] for row in table}, key=float, reverse=True)
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
    tip += [{"field": "error", "title": "±", "format": ".2~g"}]
    tip += [{"field": "below", "title": "below the best, dB", "format": ".2f"}]
    tip += [{"field": "below_error", "title": "± of that", "format": ".2~g"}]
    model = f", {a.runs.listed[a.shown[0]].model}" if len({a.runs.listed[n].model for n in a.shown}) == 1 else ""
    return Chart(
        "best-alpha",
        "where",
        10,
        f"The best alpha of every layer{model}",
        f"SQNR at the chosen site; a ring marks the best alpha of each layer, {TIED} what noise may all tell from it "
        "(95 %). By squared error, whatever a layer is worth to the network.",
        {
            "data": rows(FIELDS, table),
            "transform": [
                {"filter": f"{AT_SITE} && datum.context === context && {SHOWN}"},
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
                    "transform": [{"filter": "datum.mark === 'best'"}],
                    "mark": {"type": "point", "size": 90, "strokeWidth": 2, "filled": False, "color": "var(--ink)"},
                    "encoding": {"tooltip": tip},
                },
                {
                    "transform": [{"filter": "datum.mark === 'tied'"}],
                    "mark": {"type": "text", "text": TIED, "fontSize": 14, "fontWeight": 600, "color": "var(--ink)"},
                    "encoding": {"tooltip": tip},
                },
            ],
        },
        {"context": ("for", [q.context for q in questions], questions[0].context)},
    )


def _marked(
    a: Answer, contexts: dict[int, str], at: dict[Place, float]
) -> list[tuple[float | None, float, float | None, str]]:
    """(error of the SQNR, dB below the best of its context, layer and site, error of that, mark) of every place."""
    known = sqnr_replicates(a.runs, list(contexts))
    groups: dict[tuple[str, int, str], list[Place]] = defaultdict(list)
    for place in at:
        groups[contexts[place[0]], *place[1:]].append(place)
    best = {place: max(group, key=lambda p: at[p]) for group in groups.values() for place in group}
    marked = []
    for place, db in at.items():
        top, mine, its = best[place], known.get(place), known.get(best[place])
        paired = a.runs.listed[place[0]].key == a.runs.listed[top[0]].key
        error = None if mine is None else float(jackknife(mine))
        of_below = difference_error(mine, its, paired) if place != top else None
        tied = place != top and unresolved(at[top], its, db, mine, paired)
        marked.append((error, at[top] - db, of_below, "best" if place == top else "tied" if tied else ""))
    return marked


CHARTS = (best_alpha,)
