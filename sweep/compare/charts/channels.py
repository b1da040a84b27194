"""The largest magnitudes of a layer's channels and heads, before and after sorting and clustering, with group clips."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import duckdb
import numpy as np

from sweep.compare.analysis.significance import Floats
from sweep.compare.charts.base import Chart, Spec, rows
from sweep.compare.facts import Answer
from sweep.compare.query.database import GROUPING, SCALES
from sweep.compare.tables.chosen import pick

LAYERS, CELLS = 6, 2
POINTS = 640  # of a curve; of more channels the largest of some neighbours is drawn
ORDERS = ("original order", "sorted and clustered")
KINDS = ("channels", "heads")
COLUMNS = "cell, layer, ssd_groups, head_groups, dim_groups, channels, heads, head_ends, dim_ends, absmax"


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer's grouping. absmax, clip, error: [d_inner], the largest magnitude of every channel, the clip of its group
    and the standard error of that, in the original order. channels, heads: the original number at each new position.
    cuts: the numbers of heads at which clusters end, in the new order."""

    absmax: Floats
    clip: Floats
    error: Floats
    channels: list[int]
    heads: list[int]
    cuts: list[int]

    def curves(self) -> Iterator[tuple[str, str, Floats, list[int]]]:
        """(kind, order, [absmax, clip, error], boundaries) of each curve; boundaries only where groups are in order."""
        size = len(self.absmax) // len(self.heads)
        each = np.stack([self.absmax, self.clip, self.error])
        widest = np.arange(len(self.heads)) * size + np.nan_to_num(self.clip).reshape(-1, size).argmax(1)
        heads = np.stack([self.absmax.reshape(-1, size).max(1), self.clip[widest], self.error[widest]])
        ends = [cut * size for cut in self.cuts]
        yield "channels", ORDERS[0], each, []
        yield "channels", ORDERS[1], each[:, self.channels], ends
        yield "heads", ORDERS[0], heads, []
        yield "heads", ORDERS[1], heads[:, self.heads], self.cuts


def channels(a: Answer) -> Chart | None:
    """Maxima of channels or heads of one layer of a grouped cell in both orders, with the clips of their groups."""
    cells = [n for n in a.shown if a.runs.listed[n].granularity != "tensor"][:CELLS]
    layers = _layers(a, cells)
    if not layers:
        return None
    shown = pick(sorted({layer for _, layer in layers}), LAYERS)
    table: list[tuple[Any, ...]] = []
    together = 1
    for (cell, layer), one in layers.items():
        if layer not in shown:
            continue
        for kind, order, (absmax, clip, error), ends in one.curves():
            step = max(1, -(-len(absmax) // POINTS))
            together = max(together, step)
            where = (a.runs.labels[cell], layer, kind, order)
            for start in range(0, len(absmax), step):
                part = slice(start, start + step)
                widest = start + int(np.nan_to_num(clip[part]).argmax())
                table.append(
                    (*where, start, float(absmax[part].max()), float(clip[widest]), float(error[widest]), None)
                )
            table += [(*where, None, None, None, None, end) for end in ends]
    names = list(dict.fromkeys(a.runs.labels[cell] for cell, _ in layers))
    return Chart(
        "channels",
        "groups",
        10,
        f"Largest magnitudes of x after SiLU, before and after sorting, {a.runs.listed[cells[0]].model}",
        "Grey: the largest magnitude of each channel, or of each head. Line: the clip of its group, one scale each. "
        "Vertical lines part the clusters of heads; within a head channels are sorted by the largest mean of |x| over "
        "a text, which is the key, so maxima follow it only roughly. The nearer the line to the grey, the less of the "
        "range is wasted." + (f" Of {together} neighbouring channels the largest is drawn." if together > 1 else ""),
        _spec(table),
        {
            "cell": ("cell", names, names[0]),
            "layer": ("layer", shown, shown[0]),
            "kind": ("of", list(KINDS), KINDS[0]),
        },
    )


def _spec(table: list[tuple[Any, ...]]) -> Spec:
    x: Spec = {"field": "position", "type": "quantitative", "title": "channels, or heads, in this order"}
    x["scale"] = {"nice": False, "zero": False, "padding": 0}
    x["axis"] = {"grid": False, "format": "d", "tickMinStep": 1}
    y: Spec = {"field": "absmax", "type": "quantitative", "title": "largest |x|", "axis": {"tickCount": 4}}
    tip = [{"field": "position"}, {"field": "absmax", "title": "largest |x|", "format": ".4g"}]
    tip += [{"field": "clip", "title": "clip of its group", "format": ".4g"}]
    tip += [{"field": "error", "title": "±", "format": ".2~g"}]
    curve, edge = [{"filter": "isValid(datum.absmax)"}], [{"filter": "isValid(datum.edge)"}]
    header = {"title": None, "labelAnchor": "start", "labelFontWeight": 600, "labelColor": "var(--ink)"}
    return {
        "data": rows(("cell", "layer", "kind", "order", "position", "absmax", "clip", "error", "edge"), table),
        "transform": [{"filter": "datum.cell === cell && datum.layer === layer && datum.kind === kind"}],
        "facet": {"field": "order", "type": "nominal", "sort": list(ORDERS), "header": header},
        "columns": 1,
        "spacing": 14,
        "spec": {
            "height": 150,
            "layer": [
                {
                    "transform": curve,
                    "mark": {"type": "area", "interpolate": "step-after", "color": "var(--ink-2)", "opacity": 0.4},
                    "encoding": {"x": x, "y": y, "tooltip": tip},
                },
                {
                    "transform": edge,
                    "mark": {"type": "rule", "strokeWidth": 1, "color": "var(--ink-2)"},
                    "encoding": {"x": {**x, "field": "edge"}},
                },
                {
                    "transform": curve,
                    "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 1.6, "color": "var(--c0)"},
                    "encoding": {"x": x, "y": {**y, "field": "clip"}, "tooltip": tip},
                },
            ],
        },
    }


def _layers(a: Answer, cells: list[int]) -> dict[tuple[int, int], Layer]:
    """(cell, layer) → its grouping, of cells whose grouping.parquet has the maxima of the channels."""
    source = a.runs.source(GROUPING, cells) if cells else None
    if source is None:
        return {}
    query = f"""
        SELECT cell, layer, coalesce(ssd_group, 0), head_group, dim_group, clip,
               scale_se * clip / nullif(scale, 0) FROM {a.runs.source(SCALES, cells)}
        WHERE site = 'x_conv_out' AND head_group IS NOT NULL"""
    clips = {tuple(place): (clip, error) for *place, clip, error in a.runs.sql(query)}
    layers = {}
    try:
        groupings = a.runs.sql(f"SELECT {COLUMNS} FROM {source} ORDER BY ALL")
    except duckdb.BinderException:  # written before the maxima were
        return {}
    for cell, layer, s, h, d, order, heads, head_ends, dim_ends, absmax in groupings:
        if order is None or absmax is None:
            continue
        clip, error = np.full((2, len(order)), np.nan)
        place = np.array(order).reshape(s, len(heads) // s, -1)
        for i, j, k in product(range(s), range(h), range(d)):
            first, last = ([0, *head_ends[i * h : (i + 1) * h]][j], head_ends[i * h + j])
            begin, end = ([0, *dim_ends[(i * h + j) * d : (i * h + j + 1) * d]][k], dim_ends[(i * h + j) * d + k])
            members = place[i, first:last, begin:end]
            clip[members], error[members] = clips.get((cell, layer, i, j, k), (np.nan, np.nan))
        cuts = [i * (len(heads) // s) + head_ends[i * h + j] for i, j in product(range(s), range(h))][:-1]
        layers[cell, layer] = Layer(np.array(absmax), clip, error, order, heads, cuts)
    return layers


CHARTS = (channels,)
