"""Loss of the network by quantized layer, of evaluated cells."""

from __future__ import annotations

from sweep.compare.charts.base import (
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

WHICH = (("only", "only this layer quantized"), ("all_but", "all layers but this one"))
# what is drawn → its key, its error's key
MEASURES = (
    ("KL to the unquantized model, nats per token", "kl", "kl_se"),
    ("perplexity less unquantized", "delta_perplexity", "delta_perplexity_se"),
)
LEFT = {"align": "left", "clip": False}  # above the plot


def sensitivity(a: Answer) -> Chart | None:
    """KL or perplexity with only this layer quantized and with all but this one, each with its error."""
    table, names = [], who(a)
    for n in a.shown:
        e = a.runs.listed[n].evaluation or {}
        reference = (e.get("baseline") or {}).get("perplexity")
        for entry in e.get("layers") or []:
            for which, words in WHICH:
                for unit, key, error in MEASURES:
                    scores = entry.get(which) or {}
                    value, se = scores.get(key), scores.get(error)
                    if (
                        value is None
                        and key == "delta_perplexity"
                        and None not in (reference, scores.get("perplexity"))
                    ):
                        value = scores["perplexity"] - reference
                    if value is not None:
                        band = (None, None) if se is None else (value - 2 * se, value + 2 * se)
                        table.append((*names[n], entry["layer"], words, unit, value, *band))
    if not table:
        return None
    kinds = [words for _, words in WHICH if any(row[4] == words for row in table)]
    units = [unit for unit, _, _ in MEASURES if any(row[5] == unit for row in table)]
    look = cell_colour(a)
    y = {"field": "loss", "type": "quantitative", "title": None, "scale": {"padding": 8}, "axis": {"format": "~g"}}
    tip = [{"field": "cell"}, {"field": "layer"}, {"field": "unit", "title": "measured"}]
    tip += [{"field": f, "title": t, "format": "+.3~g"} for f, t in (("loss", "loss"), ("low", "− 2 errors"))]
    tip += [{"field": "high", "title": "+ 2 errors", "format": "+.3~g"}]
    models = {a.runs.listed[n].model for n in a.shown}
    return Chart(
        "sensitivity",
        "sensitivity",
        0,
        f"What each layer costs{f', {next(iter(models))}' if len(models) == 1 else ''}",
        "The band is ± 2 standard errors over the texts: where bands overlap, the order of layers is not known.",
        {
            "data": rows((*SERIES, "layer", "which", "unit", "loss", "low", "high"), table),
            "transform": [{"filter": f"{SHOWN} && datum.which === which && datum.unit === measure"}],
            "height": HEIGHT,
            "encoding": {"x": layer_x(), "color": look["color"], "detail": {"field": "cell"}},
            "layer": [
                {  # the title of the axis: that of the measure chosen
                    "data": {"values": [{"one": 1}]},
                    "mark": {
                        "type": "text",
                        "text": {"expr": "measure + ', ' + which"},
                        "align": "left",
                        "clip": False,
                    },
                    "encoding": {"x": {"value": 0}, "y": {"value": -8}, "color": {"value": "var(--ink-2)"}},
                },
                {
                    "transform": [{"filter": "isValid(datum.low)"}],
                    "mark": {"type": "area", "opacity": 0.16},
                    "encoding": {"y": {**y, "field": "low"}, "y2": {"field": "high"}},
                },
                {"mark": line(), "encoding": {"y": y, **only(look, "strokeDash")}, "params": [ZOOM]},
                {"mark": points(), "encoding": {"y": y, **only(look, "shape"), "tooltip": tip}},
            ],
        },
        {"measure": ("measured by", units, units[0]), "which": ("with", kinds, kinds[0])},
    )


CHARTS = (sensitivity,)
