"""What charts share: a Vega-Lite description each, drawn by the report in the browser and saved as pictures.

Names of cells and sites enter as data, never as code or as a field's name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweep.compare.answer import Answer
from sweep.compare.render.theme import colours

Spec = dict[str, Any]
HEIGHT = 300


@dataclass(frozen=True)
class Chart:
    """selects: choices of a chart's own, parameter name → (label, values, first shown). Parameters `site` and
    `hidden` (labels of cells switched off) are the page's: every chart may use them."""

    name: str
    title: str
    caption: str
    spec: Spec
    selects: dict[str, tuple[str, list[Any], Any]] = field(default_factory=dict)


def shared(a: Answer) -> list[Spec]:
    """The page's parameters."""
    return [{"name": "site", "value": a.site}, {"name": "hidden", "value": []}]


SHOWN = "indexof(hidden, datum.cell) < 0"
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


def layer_axis(title: str = "layer") -> Spec:
    return {"title": title, "tickMinStep": 1, "format": "d"}


def cell_colour(a: Answer) -> tuple[Spec, Spec]:
    """Encodings of colour and dash by cell; the page's list of cells is the legend."""
    numbers, dashes, _ = colours([a.runs.listed[n] for n in a.shown])
    names = [a.runs.labels[n] for n in a.shown]
    colour = {
        "field": "cell",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": names, "range": [f"var(--c{n})" for n in numbers]},
    }
    dash = {"field": "cell", "type": "nominal", "legend": None, "scale": {"domain": names, "range": dashes}}
    return colour, dash


def rows(columns: Sequence[str], found: Iterable[Sequence[Any]]) -> Spec:
    """Inline data; numbers with 5 significant digits, NaN as null."""
    return {"values": [dict(zip(columns, map(short, row), strict=True)) for row in found]}


def short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
