"""What enters the quantizer: the distribution after SiLU with every clip on it, and what SiLU does to it."""

from __future__ import annotations

from collections.abc import Sequence

from sweep.compare.analysis.silu_gain import QUANTILES
from sweep.compare.answer import Answer
from sweep.compare.charts.base import HEIGHT, SHOWN, ZOOM, Chart, cell_colour, layer_axis, rows
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
    found, layers = [], []
    for layer, edges, counts in a.runs.sql(
        f"SELECT layer, edges, counts FROM {source} WHERE site = 'x_conv_out' ORDER BY layer"
    ):
        layers.append(layer)
        found += [(layer, *bin_) for bin_ in _magnitudes(edges, counts)]
    if not found or not same:
        return None
    layers = layers[:: -(-len(layers) // LAYERS)]
    found = [row for row in found if row[0] in layers]
    clips = [
        (a.runs.labels[c], layer, clip, share)
        for c, layer, clip, share in a.runs.sql(
            f"SELECT cell, layer, clip, clip_fraction FROM {a.runs.source(SCALES, same)} WHERE site = 'x_conv_out'"
        )
        if layer in layers
    ]
    # four decades below the widest clip; what lies lower never meets a clip
    low = max(clip for _, _, clip, _ in clips) * 1e-4
    found = [row for row in found if row[1] >= low]
    colour, dash = cell_colour(a)
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
        "legend": {"title": None, "symbolType": "square"},
    }
    tip = [
        {"field": "cell"},
        {"field": "clip", "format": ".4g"},
        {"field": "share", "title": "clipped", "format": ".4%"},
    ]
    return Chart(
        "histogram",
        "What is being clipped?",
        "Counts of |x| after SiLU, both axes logarithmic; a rule marks the clip of each cell. Everything to the right "
        "of a rule saturates.",
        {
            "height": HEIGHT,
            "layer": [
                {
                    "data": rows(("layer", "low", "high", "count", "sign"), found),
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
                    "data": rows(("cell", "layer", "clip", "share"), clips),
                    "transform": [{"filter": f"datum.layer === layer && {SHOWN}"}],
                    "mark": {"type": "rule", "strokeWidth": 2, "clip": True},
                    "encoding": {
                        "x": {"field": "clip", "type": "quantitative"},
                        "color": colour,
                        "strokeDash": dash,
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


def gain(a: Answer) -> Chart | None:
    """SiLU gain by layer: never above the line at 1."""
    numbers = [n for n in a.shown if a.runs.listed[n].method in QUANTILES]
    source = a.runs.source(SCALES, numbers)
    if source is None:
        return None
    query = f"""
        SELECT cell, site, layer, avg(silu_gain), avg(ratio) FROM {source} WHERE silu_gain IS NOT NULL
        GROUP BY cell, site, layer ORDER BY ALL"""
    found = [(a.runs.labels[c], *rest) for c, *rest in a.runs.sql(query)]
    if not found:
        return None
    sites = sorted({row[1] for row in found}, reverse=True)
    colour, dash = cell_colour(a)
    x = {"field": "layer", "type": "quantitative", "axis": layer_axis(), "scale": {"nice": False, "padding": 8}}
    y = {
        "field": "gain",
        "type": "quantitative",
        "title": "scale after SiLU / before",
        "scale": {"domain": [0, 1.1], "nice": False},
    }
    tip = [
        {"field": "cell"},
        {"field": "layer"},
        {"field": "gain", "format": ".4f"},
        {"field": "ratio", "title": "ratio to the weight scale", "format": ".2f"},
    ]
    return Chart(
        "gain",
        "What SiLU does to the range",
        "SiLU gain by layer. The dashed line at 1 means no change; above it SiLU would expand the range, which no "
        "quantile of |x| can do.",
        {
            "data": rows(("cell", "of", "layer", "gain", "ratio"), found),
            "transform": [{"filter": f"datum.of === of && {SHOWN}"}],
            "height": 240,
            "layer": [
                {
                    "mark": {"type": "line", "strokeWidth": 1.8, "clip": True},
                    "encoding": {"x": x, "y": y, "color": colour, "strokeDash": dash},
                    "params": [ZOOM],
                },
                {
                    "mark": {"type": "circle", "size": 36, "opacity": 1, "clip": True},
                    "encoding": {"x": x, "y": y, "color": colour, "tooltip": tip},
                },
                {
                    "data": {"values": [{"one": 1}]},
                    "mark": {"type": "rule", "strokeDash": [5, 4], "strokeWidth": 1.5},
                    "encoding": {"y": {"field": "one", "type": "quantitative"}},
                },
            ],
        },
        {"of": ("at", sites, sites[0])},
    )
