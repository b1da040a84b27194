"""The distribution that enters the quantizer, with every clip on it."""

from __future__ import annotations

from collections.abc import Sequence

from sweep.compare.charts.base import HEIGHT, SERIES, SHOWN, ZOOM, Chart, cell_colour, only, rows, who
from sweep.compare.facts import Answer
from sweep.compare.query.database import HISTOGRAMS, SCALES

LAYERS = 16  # layers whose distribution the report carries


def histogram(a: Answer) -> Chart | None:
    """|post-SiLU| of x on log axes, both signs apart, with the clips of all cells as vertical rules."""
    first = next((n for n in a.shown if (a.runs.listed[n].path / HISTOGRAMS).exists()), None)
    if first is None:
        return None
    calibration = a.runs.listed[first].calibration
    same = [
        n for n in a.shown if a.runs.listed[n].calibration == calibration and a.runs.listed[n].granularity == "tensor"
    ]
    source = a.runs.source(HISTOGRAMS, [first])
    bins: list[tuple[int, float, float, int, str]] = []
    layers: list[int] = []
    for layer, edges, counts in a.runs.sql(
        f"SELECT layer, edges, counts FROM {source} WHERE site = 'x_conv_out' ORDER BY layer"
    ):
        layers.append(layer)
        bins += [(layer, *bin_) for bin_ in _magnitudes(edges, counts)]
    if not bins or not same:
        return None
    layers = layers[:: -(-len(layers) // LAYERS)]
    bins = [row for row in bins if row[0] in layers]
    names = who(a)
    clips = [
        (*names[c], layer, clip, share, error)
        for c, layer, clip, share, error in a.runs.sql(
            "SELECT cell, layer, clip, clip_fraction, scale_se * clip / nullif(scale, 0) "
            f"FROM {a.runs.source(SCALES, same)} WHERE site = 'x_conv_out' "
            "ORDER BY ALL"
        )
        if layer in layers
    ]
    if not clips:
        return None
    # four decades below the widest clip; what lies lower never meets a clip
    low = max(row[4] for row in clips) * 1e-4
    bins = [row for row in bins if row[1] >= low]
    look = cell_colour(a)
    x = {
        "field": "low",
        "type": "quantitative",
        "title": "|x| after SiLU",
        "scale": {"type": "log", "nice": False},
        "axis": {"format": "~g", "tickCount": 6},
    }
    sign = {
        "field": "sign",
        "type": "nominal",
        "scale": {"domain": ["x > 0", "x < 0"], "range": ["var(--accent)", "var(--ink-2)"]},
        "legend": {"title": None, "symbolType": "square", "orient": "top-left", "columns": 2},
    }
    tip = [
        {"field": "cell"},
        {"field": "clip", "format": ".4g"},
        {"field": "error", "title": "±", "format": ".2~g"},
        {"field": "share", "title": "clipped", "format": ".4%"},
    ]
    return Chart(
        "histogram",
        "range",
        0,
        f"Distribution of x after SiLU, with the clips, {a.runs.listed[first].model}",
        "Counts of |x| after SiLU, both axes logarithmic; a rule marks the clip of each cell. Everything to the right "
        "of a rule saturates.",
        {
            "height": HEIGHT,
            "layer": [
                {
                    "data": rows(("layer", "low", "high", "count", "sign"), bins),
                    "transform": [
                        {"filter": "datum.layer === layer"}
                    ],  # an outer one would not reach a layer's own data
                    "params": [ZOOM],
                    "mark": {"type": "bar", "opacity": 0.55, "clip": True},
                    "encoding": {
                        "x": x,
                        "x2": {"field": "high"},
                        "color": sign,
                        "y": {
                            "field": "count",
                            "type": "quantitative",
                            "title": "values in bin",
                            "stack": None,
                            "scale": {"type": "log", "domainMin": 0.5, "nice": False},
                            "axis": {"format": "~s", "tickCount": 6},
                        },
                        "y2": {"datum": 0.5},
                        "tooltip": [
                            {"field": "low", "format": ".4g"},
                            {"field": "high", "format": ".4g"},
                            {"field": "count", "format": ","},
                            {"field": "sign"},
                        ],
                    },
                },
                {
                    "data": rows((*SERIES, "layer", "clip", "share", "error"), clips),
                    "transform": [{"filter": f"datum.layer === layer && {SHOWN}"}],
                    "mark": {"type": "rule", "strokeWidth": 2, "clip": True},
                    "encoding": {
                        "x": {"field": "clip", "type": "quantitative"},
                        **only(look, "color", "strokeDash"),
                        "tooltip": tip,
                    },
                },
            ],
            "resolve": {"scale": {"color": "independent"}},
        },
        {"layer": ("layer", layers, layers[len(layers) // 2])},
    )


def _magnitudes(edges: Sequence[float], counts: Sequence[int]) -> list[tuple[float, float, int, str]]:
    """Signed bins → (low, high, count, sign) of magnitudes; empty bins and those that touch zero left out."""
    signed = [(low, high, count) for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True) if count]
    positive = [(low, high, count, "x > 0") for low, high, count in signed if low > 0]
    return positive + [(-high, -low, count, "x < 0") for low, high, count in signed if high < 0]


CHARTS = (histogram,)
