"""Settings against number formats, as one map of cost."""

from __future__ import annotations

import math

from sweep.compare.analysis.cost import Estimate
from sweep.compare.analysis.ranking import AS_GOOD
from sweep.compare.charts.base import SHOWN, TIED, Chart, Spec, rows
from sweep.compare.charts.measure import Measure, measure
from sweep.compare.facts import Answer
from sweep.compare.query.labels import told_apart
from sweep.compare.render.numbers import FINEST, nats


def formats(a: Answer) -> Chart | None:
    """Heat map, setting x format, of the cost with its error; the best of each format is framed, and what is tied with
    it is marked."""
    m = measure(a)
    cells = [a.runs.listed[n] for n in m.cells]
    if len({c.format for c in cells}) < 2 or len({c.setting for c in cells}) < 2:
        return None
    several = [k for k in ("model", "granularity") if len({getattr(c, k) for c in cells}) > 1]
    told = told_apart(a.runs.listed)
    tied, table = _tied(a, m), []
    for n in sorted(m.cells.keys() & {row.cell for group in a.ranking for row in group.rows}):  # none that repeats one
        e = m.cells[n]
        c = a.runs.listed[n]
        context = " · ".join(filter(None, (*(getattr(c, k) for k in several), told[n]))) or c.model
        said, error = _said(e, m)
        mark = f"{TIED} " if n in tied else ""
        table.append((a.runs.labels[n], context, c.setting, c.format, e.value, e.se, f"{mark}{said}", error))
    contexts = list(dict.fromkeys(row[1] for row in table))
    settings = sorted({(c.method, c.alpha or 0.0, c.setting) for c in cells})
    model = f", {contexts[0]}" if len(contexts) == 1 else ""
    best = "min" if m.lower else "max"
    x: Spec = {"field": "format", "type": "nominal", "title": None, "sort": None}
    x["axis"] = {"orient": "top", "labelAngle": 0, "domain": False, "ticks": False, "labelFontSize": 12}
    y: Spec = {"field": "setting", "type": "nominal", "title": None, "sort": [name for _, _, name in settings]}
    y["axis"] = {"domain": False, "ticks": False, "labelLimit": 160}
    ink = {"condition": {"test": "datum.rank > 3", "value": "var(--paper)"}, "value": "var(--ink)"}
    tip = [{"field": "cell"}, {"field": "cost", "title": m.name, "format": m.digits}]
    tip += [{"field": "error", "title": "±", "format": ".2~g"}]
    shade = {
        "field": "rank",
        "type": "ordinal",
        "legend": None,
        "scale": {"domain": list(range(8)), "range": [f"var(--s{i})" for i in range(8)]},
    }
    return Chart(
        "methods-formats",
        "answer",
        10,
        f"Methods and formats: {m.name}{model}",
        f"{m.unit[0].upper() + m.unit[1:]}. The stronger the colour, the {'dearer' if m.lower else 'better'}; "
        "the best of each format is framed"
        + (f", {TIED} marks what is tied with it" if tied else "")
        + ". The small number is one standard error.",
        {
            "data": rows(("cell", "context", "setting", "format", "cost", "error", "said", "small"), table),
            "transform": [
                {"filter": f"datum.context === context && {SHOWN}"},
                {
                    "joinaggregate": [
                        {"op": "min", "field": "cost", "as": "least"},
                        {"op": "max", "field": "cost", "as": "most"},
                    ]
                },
                {"calculate": _rank(m.log), "as": "rank"},
                {"joinaggregate": [{"op": best, "field": "cost", "as": "best"}], "groupby": ["format"]},
            ],
            "height": 36 * len(settings),
            "encoding": {"x": x, "y": y},
            "layer": [
                {
                    "mark": {"type": "rect", "stroke": "var(--paper)", "strokeWidth": 2},
                    "encoding": {"color": shade, "tooltip": tip},
                },
                {
                    "transform": [{"filter": "datum.cost === datum.best"}],
                    "mark": {"type": "rect", "filled": False, "stroke": "var(--ink)", "strokeWidth": 2.5},
                },
                {
                    "mark": {"type": "text", "fontSize": 12, "dy": -4},
                    "encoding": {"text": {"field": "said"}, "color": ink, "tooltip": tip},
                },
                {
                    "mark": {"type": "text", "fontSize": 9.5, "dy": 9},
                    "encoding": {"text": {"field": "small"}, "color": ink, "tooltip": tip},
                },
            ],
        },
        {"context": ("for", contexts, contexts[0])},
    )


def _said(e: Estimate, m: Measure) -> tuple[str, str]:
    """A value to the digit of its error, and the error: `0.0056`, `± 0.0002`."""
    if not (math.isfinite(e.se) and e.se > 0):
        return nats(e) if m.lower else f"{e.value:.2f}", ""
    if e.se < 10.0**-FINEST:
        return f"{e.value:.3g}", f"± {e.se:.1g}"
    said, _, error = nats(e).partition(" ± ")
    return said, f"± {error}"


def _tied(a: Answer, m: Measure) -> set[int]:
    """Numbers of the cells that the ranking holds for as good as the best, where it ranks by the same measure."""
    return {row.cell for group in a.ranking if group.kind == m.name for row in group.rows if row.verdict == AS_GOOD}


def _rank(log: bool) -> str:
    """An eighth of the range that a cost lies in, 0 to 7."""
    low, high, value = (f"log(datum.{n})" if log else f"datum.{n}" for n in ("least", "most", "cost"))
    return f"datum.most > datum.least ? min(7, floor(8 * ({value} - {low}) / ({high} - {low}))) : 0"


CHARTS = (formats,)
