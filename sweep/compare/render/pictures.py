"""Figures for papers: the report's own charts, drawn without a browser by vl-convert, in the width of a page of two
columns and of one, as PDF, SVG and PNG. No title inside: captions are text files beside them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sweep.compare.charts import Chart, charts, shared
from sweep.compare.facts import Answer
from sweep.compare.render.theme import CONFIG, light, variables
from sweep.core.files import draft

INCH = 96  # pixels of an SVG
COLUMNS = {2: 6.75, 1: 3.25}  # inches: both columns, and one, of the usual conferences
ONE = "one-column"  # folder of the narrow ones
LONG = 300  # limit of labels that name a baseline behind a minus; these go over two lines
PANEL_MARGIN = 62  # pixels that axis and padding of a facet take, which Vega does not fit into a width


def standalone(chart: Chart, a: Answer, columns: int = 2) -> dict[str, Any]:
    """The chart as a complete Vega-Lite description: light colours, a column's width, its first choices, no title."""
    width = round(COLUMNS[columns] * INCH)
    params = [*shared(a), *({"name": name, "value": first} for name, (_, _, first) in chart.selects.items())]
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json", **_sized(chart, width), "padding": 4,
        "params": params, "config": {**CONFIG, "background": "var(--paper)"},
    }  # fmt: skip
    if columns == 1:
        spec = _narrow(spec)
    whole: dict[str, Any] = json.loads(light(json.dumps(spec), variables([a.runs.listed[n] for n in a.shown])))
    return whole


def caption(chart: Chart, a: Answer) -> str:
    """Title, choices and caption as one paragraph."""
    chosen = [f"{label} {first}" for label, values, first in chart.selects.values() if len(values) > 1]
    at = [f"at {a.site}"] if chart.follows_site else []
    return f"{chart.title}{''.join(f'; {part}' for part in at + chosen)}. {chart.caption}\n"


def pngs(a: Answer) -> dict[str, bytes]:
    """Every chart as a PNG in the width of a page, by its name."""
    import vl_convert

    return {name: _png(vl_convert.vegalite_to_svg(standalone(chart, a))) for name, chart in charts(a).items()}


def _png(svg: str) -> bytes:
    import vl_convert

    return bytes(vl_convert.svg_to_png(svg, scale=3))


def save(a: Answer, directory: Path) -> int:
    """Write every chart as NAME.pdf, .svg and .png, the same below one-column/, and NAME.txt; returns how many charts
    there were."""
    import vl_convert

    drawn = charts(a)
    for columns in COLUMNS:
        place = directory / ONE if columns == 1 else directory
        place.mkdir(parents=True, exist_ok=True)
        for name, chart in drawn.items():
            svg = vl_convert.vegalite_to_svg(standalone(chart, a, columns))
            for ending, content in (
                ("svg", svg.encode()),
                ("png", _png(svg)),
                ("pdf", vl_convert.svg_to_pdf(_in_points(svg))),
            ):
                with draft(place / f"{name}.{ending}") as file:
                    file.write_bytes(content)
    for name, chart in drawn.items():
        with draft(directory / f"{name}.txt") as file:
            file.write_text(caption(chart, a), encoding="utf-8")
    return len(drawn)


def _in_points(svg: str) -> str:
    """The same picture, as many points wide and high as it was pixels by the inch: a PDF's unit is the point."""

    def points(size: re.Match[str]) -> str:
        return f'{size[1]}="{float(size[2]) * 72 / INCH:g}"'

    head, rest = svg.split(">", 1)
    return re.sub(r'\b(width|height)="([\d.]+)"', points, head) + ">" + rest


def _sized(chart: Chart, width: int) -> dict[str, Any]:
    spec = chart.spec
    if "facet" not in spec:
        return {**spec, "width": width, "autosize": {"type": "fit-x", "contains": "padding"}}
    columns = max(1, min(chart.panels, width // 150))
    room = (width - PANEL_MARGIN) // columns - spec["spacing"]
    return {**spec, "columns": columns, "spec": {**spec["spec"], "width": room, "height": min(200, room * 1.2)}}


def _narrow(node: Any) -> Any:
    """Legends in two columns and short labels, which one column of a page has room for."""
    if isinstance(node, list):
        return [_narrow(child) for child in node]
    if not isinstance(node, dict) or (
        isinstance(node.get("values"), list) and "title" not in node and "format" not in node
    ):
        return node
    node = {key: child if key == "data" else _narrow(child) for key, child in node.items()}
    if "orient" in node and "columns" in node:
        node["columns"] = 3 if node.get("symbolType") == "square" and node["columns"] > 5 else 2
    if "labelLimit" in node and "symbolSize" not in node:
        if node["labelLimit"] > LONG:
            node |= {"labelExpr": "split(datum.label, ' − ')", "labelFontSize": 8.5, "labelLineHeight": 9.5}
        node["labelLimit"] = 130
    if "gradientLength" in node:
        node |= {"gradientLength": 180, "labelFontSize": 8, "labelOverlap": "greedy"}
    return node
