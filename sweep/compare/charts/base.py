"""Parts that charts share. A chart is a Vega-Lite description, drawn in the browser and saved as pictures.

Names of cells and sites enter as data, never as code or as a field's name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweep.compare.facts import Answer
from sweep.compare.render.theme import SHAPES, series

Spec = dict[str, Any]
HEIGHT = 300


@dataclass(frozen=True)
class Chart:
    """section: the part of the report it belongs to, place: its order there.

    caption: what a reader must know, for the report and for a paper. selects: choices of a chart's own, parameter
    name → (label, values, first shown). Parameters `site` and `hidden` (labels of cells switched off) are the page's:
    every chart may use them. opens: whether a click on a mark goes to the distribution at its layer and site.
    panels: how many stand side by side, where `spec` has a facet.
    """

    name: str
    section: str
    place: int
    title: str
    caption: str
    spec: Spec
    selects: dict[str, tuple[str, list[Any], Any]] = field(default_factory=dict)
    opens: bool = False
    panels: int = 1

    @property
    def follows_site(self) -> bool:
        """Whether it is of the site that the page has chosen."""
        return AT_SITE in json.dumps(self.spec.get("transform", []))


def shared(a: Answer) -> list[Spec]:
    """The page's parameters."""
    return [{"name": "site", "value": a.site}, {"name": "hidden", "value": []}]


SHOWN = "indexof(hidden, datum.cell) < 0"
TIED = "~"  # stands on what the data does not tell from the best, or from the dearest
AT_SITE = "datum.site === site"
ZOOM = {
    "name": "zoom",
    "select": {
        "type": "interval",
        # the wheel alone has to scroll the page, and so has a finger; a pinch on a touch pad is Ctrl + wheel
        "zoom": "wheel![event.ctrlKey || event.metaKey]",
        "translate": '[pointerdown[event.pointerType === "mouse"], window:pointerup] > window:pointermove!',
        "on": '[pointerdown[event.pointerType === "mouse"], window:pointerup] > window:pointermove!',
    },
    "bind": "scales",
}
SERIES = ("cell", "setting", "rest")  # fields that tell a cell's series; `who` gives their values


def who(a: Answer) -> dict[int, tuple[str, str, str]]:
    """Values of the fields SERIES by cell: its label, its setting, and the rest that tells it apart."""
    s = series([a.runs.listed[n] for n in a.shown])
    named = zip(a.shown, s.setting, s.rest, strict=True)
    return {n: (a.runs.labels[n], s.settings[i], s.rests[j]) for n, i, j in named}


def layer_axis(title: str = "layer") -> Spec:
    return {"title": title, "tickMinStep": 1, "format": "d"}


def layer_x() -> Spec:
    """Layers along the axis, evenly spaced."""
    return {"field": "layer", "type": "quantitative", "axis": layer_axis(), "scale": {"nice": False, "padding": 8}}


def cell_colour(a: Answer) -> Spec:
    """Encodings of a cell's series: colour and shape by setting, dash by the rest that tells cells apart. Each has a
    legend if it has more than one value."""
    s = series([a.runs.listed[n] for n in a.shown])
    legend = {"title": None, "orient": "top", "columns": 5, "labelLimit": 230, "symbolSize": 60, "symbolOpacity": 1}
    colour = {
        "field": "setting",
        "type": "nominal",
        "sort": None,
        "legend": legend if len(s.settings) > 1 else None,
        "scale": {"domain": s.settings, "range": [f"var(--c{i})" for i in range(len(s.settings))]},
    }
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(s.settings))]
    shape = {**colour, "scale": {"domain": s.settings, "range": shapes}}
    dash = {
        "field": "rest",
        "type": "nominal",
        "sort": None,
        "legend": {**legend, "symbolType": "stroke", "symbolSize": 300} if len(s.rests) > 1 else None,
        "scale": {"domain": s.rests, "range": s.dashes},
    }
    return {"color": colour, "shape": shape, "strokeDash": dash}


def line(*, width: float = 1.8) -> Spec:
    return {"type": "line", "strokeWidth": width, "clip": True}


def points(size: int = 38) -> Spec:
    return {"type": "point", "size": size, "filled": True, "opacity": 1, "clip": True}


def only(encodings: Spec, *names: str) -> Spec:
    return {name: encodings[name] for name in names}


def rows(columns: Sequence[str], values: Iterable[Sequence[Any]]) -> Spec:
    """Inline data: numbers with the 4 significant digits that are shown of them, errors with 2, an alpha with 5; NaN as
    null."""
    digits = [2 if name.endswith("error") else 5 if name == "alpha" else 4 for name in columns]
    return {"values": [dict(zip(columns, map(short, row, digits), strict=True)) for row in values]}


def short(value: Any, digits: int = 4) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value
