"""Charts as files: the report's own descriptions, drawn without a browser by vl-convert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sweep.compare.answer import Answer
from sweep.compare.charts import Chart, charts, shared
from sweep.compare.render.theme import CONFIG, light, variables
from sweep.core.files import draft

WIDTH = 720


def standalone(chart: Chart, a: Answer) -> dict[str, Any]:
    """The chart as a complete Vega-Lite description: light colours, fixed width, a title, its first choices."""
    params = [*shared(a), *({"name": name, "value": first} for name, (_, _, first) in chart.selects.items())]
    chosen = ", ".join(f"{label} {first}" for label, _, first in chart.selects.values())
    at = f"at {a.site}" if "=== site" in json.dumps(chart.spec) else ""
    title: dict[str, Any] = {
        "text": chart.title, "subtitle": "; ".join(part for part in (at, chosen) if part),
        "anchor": "start", "offset": 14, "fontSize": 15, "subtitleFontSize": 12, "color": "var(--ink)",
        "subtitleColor": "var(--ink-2)",
    }  # fmt: skip
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json", **chart.spec, "title": title, "width": WIDTH,
        "padding": 16, "params": params, "config": {**CONFIG, "background": "var(--paper)"},
    }  # fmt: skip
    numbers = len(a.runs.sql("SELECT DISTINCT layer FROM rows"))
    found: dict[str, Any] = json.loads(
        light(json.dumps(_with_legend(spec)), variables([a.runs.listed[n] for n in a.shown], numbers))
    )
    return found


def save(a: Answer, directory: Path) -> int:
    """Write every chart as NAME.svg and NAME.png; returns how many charts there were."""
    import vl_convert

    directory.mkdir(parents=True, exist_ok=True)
    found = charts(a)
    for name, chart in found.items():
        svg = vl_convert.vegalite_to_svg(standalone(chart, a))
        with draft(directory / f"{name}.svg") as file:
            file.write_text(svg, encoding="utf-8")
        with draft(directory / f"{name}.png") as file:
            file.write_bytes(vl_convert.svg_to_png(svg, scale=2))
    return len(found)


def _with_legend(spec: dict[str, Any]) -> dict[str, Any]:
    """In the report the list of cells is the legend; a picture has to bring its own."""
    legend = {"title": None, "orient": "right", "labelLimit": 260, "symbolType": "stroke", "symbolOpacity": 1}

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(child) for child in node]
        if not isinstance(node, dict):
            return node
        node = {key: walk(child) for key, child in node.items()}
        if (colour := node.get("color")) and isinstance(colour, dict) and colour.get("field") == "cell":
            node["color"] = {**colour, "legend": legend}
        return node

    found: dict[str, Any] = walk(spec)
    return found
