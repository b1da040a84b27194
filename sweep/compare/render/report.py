"""One HTML file that answers the comparison: opens from disk, needs no network, can be mailed.

What was asked, the ranked settings and what they cost come first, evidence below, definitions last. Whatever comes
from a run is text in the page and data in the charts, never markup and never code.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sweep.compare.charts import Chart, charts, shared
from sweep.compare.facts import Answer
from sweep.compare.render import html
from sweep.compare.render.conclusions import GROW, MEASURE, RUN, WHICH, conclusions
from sweep.compare.render.definitions import definitions
from sweep.compare.render.provenance import asked, bibtex, commands
from sweep.compare.render.ranking import ranking
from sweep.compare.render.theme import CONFIG, variables
from sweep.compare.tables.catalogue import tables as every
from sweep.core.cli import spelled
from sweep.core.files import draft

HERE = Path(__file__).parent
# Nothing but what is in the file may load: a report cannot phone home.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"

# section, heading, the names of its tables; its charts name it themselves
SECTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("settings", "Settings", ("settings", "formats")),
    ("where", "Layers and sites", ("choices",)),
    ("scales", "Scales", ("alpha", "minmax", "layers")),
    ("range", "Distribution and clips", ("tail", "silu", "ratio")),
    ("data", "Amount of data", ("data",)),
    ("sensitivity", "Sensitivity", ("sensitivity",)),
    ("models", "Size of the model", ("sizes",)),
    ("groups", "Groups", ("structure",)),
)
LAST = ("cells", "Cells and all other tables")  # what no section names


@dataclass(frozen=True)
class Section:
    """A part of the page. template: of a section with a form of its own."""

    key: str
    heading: str
    figures: list[dict[str, Any]] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    template: str = ""


def write(a: Answer, path: Path) -> None:
    """Write the report. Raises OSError if the file cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft(path) as file:
        file.write_text(page(a), encoding="utf-8")


def page(a: Answer) -> str:
    """The report as one HTML document."""
    import vl_convert

    drawn = charts(a)
    lines = conclusions(a)
    first = [line for line in lines if line[0] in (RUN, MEASURE)][:1]
    lead = [*lines[:1], *first, *(line for line in lines if line[0] == WHICH)]
    sections = _sections(a, drawn)
    rows, ran = html.verdicts(a), commands(a)
    values = variables([a.runs.listed[n] for n in a.shown])
    text = html.environment().get_template("report.html").render(
        policy=POLICY,
        title=html.title(a),
        style=Markup(_variables(values) + _asset("page.css")),
        facts=[f"{len(a.runs.listed):,}", *_problems(a)],
        warnings=a.runs.warnings,
        asked=asked(a),
        commands=ran,
        lead=lead,
        copied=(RUN, MEASURE, GROW),
        words=[line for line in lines if line not in lead],
        ranking=ranking(a),
        sections=sections,
        listed=[s for s in sections[1:] if s.template or s.figures or s.tables],
        verdicts=rows,
        more=len(a.verdicts) - len(rows),
        notes=a.notes,
        questions=html.questions(a),
        switches=html.switches(a),
        sites=html.sites(a),
        site=a.site,
        definitions=definitions(a),
        bibtex=bibtex(),
        again=f"{spelled('reproduce')} DIR",
        drawings=Markup(_json(_drawings(a, drawn))),
        bundle=Markup(_script(vl_convert.javascript_bundle("window.vegaEmbed=vegaEmbed;", vl_version="6.4"))),
        script=Markup(_asset("page.js")),
    )  # fmt: skip
    return text + "\n"


def _sections(a: Answer, drawn: dict[str, Chart]) -> list[Section]:
    """The answer's first, then those with content in the order of the page."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for table in every(a):
        same = tables.setdefault(table.name, [])
        same.append(html.table(table, not same))
    figures: dict[str, list[dict[str, Any]]] = {}
    for chart in drawn.values():
        figures.setdefault(chart.section, []).append(_figure(chart, a.site))
    first = figures.pop("answer", [])
    figures["settings"] = first[1:] + figures.get("settings", [])
    sections = [Section("answer", "The answer", first)]
    for key, heading, names in SECTIONS:
        named = [table for name in names for table in tables.pop(name, [])]
        sections.append(Section(key, heading, figures.pop(key, []), named))
    sections += [Section(key, key.capitalize(), charts) for key, charts in figures.items()]  # of a chart from elsewhere
    sections.append(Section("verdicts", "What each knob does", template="verdicts.html"))
    if a.seed:
        sections.append(Section("questions", "The questions of the study", template="questions.html"))
    sections.append(Section(*LAST, tables=[table for named in tables.values() for table in named]))
    sections.append(Section("reproduce", "Cite and reproduce", template="reproduce.html"))
    return [*sections, Section("definitions", "Rules and definitions", template="definitions.html")]


def _figure(chart: Chart, site: str) -> dict[str, Any]:
    height = chart.spec.get("height", (chart.spec.get("spec") or {}).get("height", 120))
    return {
        "name": chart.name,
        "title": chart.title,
        "site": site if chart.follows_site else "",
        "caption": chart.caption,
        "choices": html.choices(chart.selects),
        "height": height,
    }


def _problems(a: Answer) -> Sequence[str]:
    return [f"{len(a.runs.problems)} not compared"] if a.runs.problems else []


def _drawings(a: Answer, drawn: dict[str, Chart]) -> dict[str, Any]:
    """The input of page.js: the shared configuration and every chart, its rows packed."""
    return {
        "config": CONFIG,
        "params": shared(a),
        "cells": html.dimensions(a),
        "charts": {
            name: {
                "spec": _packed(chart.spec),
                "selects": {parameter: first for parameter, (_, _, first) in chart.selects.items()},
                "panels": chart.panels,
                "opens": chart.opens,
            }
            for name, chart in drawn.items()
        },
    }


def _variables(values: dict[str, tuple[str, str]]) -> str:
    light = "".join(f"--{name}:{pair[0]};" for name, pair in values.items())
    dark = "".join(f"--{name}:{pair[1]};" for name, pair in values.items())
    return (
        f":root{{{light}color-scheme:light}}"
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}color-scheme:dark}}}}"
        f"@media screen{{:root[data-theme=dark]{{{dark}color-scheme:dark}}}}\n"
    )


def _packed(spec: Any) -> Any:
    """A chart whose rows are columns, words numbered: a fifth of the size. page.js makes rows of them again."""
    if isinstance(spec, list):
        return [_packed(part) for part in spec]
    if not isinstance(spec, dict):
        return spec
    return {key: _columns(part["values"]) if key == "data" else _packed(part) for key, part in spec.items()}


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name in rows[0] if rows else ():
        column = [row[name] for row in rows]
        words = list(dict.fromkeys(column))
        if all(isinstance(word, str) for word in words):
            number = {word: i for i, word in enumerate(words)}
            columns[name] = {"words": words, "at": [number[word] for word in column]}
        else:
            columns[name] = {"numbers": column}
    return {"columns": columns, "length": len(rows)}


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON that no string inside can end: in a script element only `</` and `<!` mean anything."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _script(code: str) -> str:
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")
