"""The parts of a report as HTML. Whatever comes from a run is escaped here, and nowhere else is HTML made."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from sweep.compare.analysis.verdicts import DEAD, MATTERS, NEGLIGIBLE, NOISE, UNEXAMINED, UNRESOLVED, Verdict
from sweep.compare.answer import Answer, headlines
from sweep.compare.charts import Chart
from sweep.compare.render import sentences
from sweep.compare.render.theme import colours
from sweep.compare.studies.quamba_alpha.reply import FAILS, HOLDS, OPEN, STILL
from sweep.compare.tables.table import Table

TONES = {
    MATTERS: "matters", DEAD: "dead", NEGLIGIBLE: "quiet", NOISE: "quiet", UNRESOLVED: "open", UNEXAMINED: "open",
}  # fmt: skip
ASKED = {HOLDS: "matters", FAILS: "dead", OPEN: "open", STILL: "open"}
WRAPPED = 60  # characters from which a text in a table may break
LONG = 14  # rows from which a table starts folded
FOLDED = ("layers", "verdicts")  # tables that say in full what is shown above
MOST = 400  # rows of a table in the page; csv and json have them all


def title(a: Answer) -> str:
    sweeps = list(dict.fromkeys(c.sweep for c in a.runs.listed))
    return f"Scales of {', '.join(sweeps[:3])}{' …' if len(sweeps) > 3 else ''}"


def header(a: Answer) -> str:
    models = list(dict.fromkeys(c.model for c in a.runs.listed))
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    facts = [f"{len(a.runs.listed):,} cells", ", ".join(models[:6]) + (" …" if len(models) > 6 else ""), now]
    if a.runs.problems:
        facts.insert(1, f"{len(a.runs.problems)} not compared")
    shown = " · ".join(escape(f) for f in facts)
    return (
        f'<header><div><p class="eyebrow">Activation scales of quantized Mamba</p><h1>{escape(title(a))}</h1>'
        f'<p class="facts">{shown}</p></div>'
        '<button id="theme" type="button" aria-label="light or dark">◐</button></header>'
    )


def warnings(a: Answer) -> str:
    return "".join(f'<p class="warning" role="alert">{escape(w)}</p>' for w in a.runs.warnings)


def answer(a: Answer) -> str:
    lead, *more = headlines(a)
    order = list(TONES)
    verdicts = sorted(a.verdicts, key=lambda v: order.index(v.verdict))
    cards = "".join(_card(v) for v in verdicts[:60])
    rest = f'<p class="note">{len(verdicts) - 60} more verdicts in --format json.</p>' if len(verdicts) > 60 else ""
    bullets = "".join(f"<li>{_numbers(text)}</li>" for text in more)
    notes = "".join(f'<p class="note">{escape(n)}</p>' for n in a.notes)
    return (
        f'<section id="answer"><h2>The answer</h2><p class="lead">{_numbers(lead)}</p>'
        f'<ul class="also">{bullets}</ul><div class="verdicts">{cards}</div>{rest}{notes}</section>'
    )


def seed(a: Answer) -> str:
    """The questions of the study this project grew from, in its order, with what it said."""
    if not a.seed:
        return ""
    items = "".join(
        f'<li><h3>{escape(r.question)} <span class="tag {ASKED.get(r.verdict, "")}">{escape(r.verdict)}</span></h3>'
        f'<p class="context">The study: {escape(r.said)}</p><p>{_numbers(r.text)}</p></li>'
        for r in a.seed
    )
    return f'<section id="seed"><h2>The questions of the study this project grew from</h2><ol>{items}</ol></section>'


def _card(v: Verdict) -> str:
    return (
        f'<article class="verdict {TONES[v.verdict]}"><h3><span class="knob">{escape(v.contrast.knob)}</span>'
        f'<span class="tag">{escape(v.verdict)}</span></h3><p class="context">{escape(v.contrast.context)}</p>'
        f'<p>{_numbers(sentences.verdict(v))}</p><p class="rule">{escape(_why(v))}</p></article>'
    )


def _why(v: Verdict) -> str:
    parts = [v.rule]
    if v.verdict == MATTERS:
        parts.append(f"{v.counted} of {v.places} places (layer, site) do by themselves")
    if v.folds > 1:
        parts.append(f"{'paired' if v.paired else 'independent'} errors from {v.folds} folds")
    return "; ".join(parts) + "."


def toolbar(a: Answer) -> str:
    """The list of cells, which is every chart's legend and switch, and the choice of site."""
    numbers, dashes, _ = colours([a.runs.listed[n] for n in a.shown])
    chips = []
    for n, colour, dash in zip(a.shown, numbers, dashes, strict=True):
        pattern = " ".join(str(d / 2) for d in dash) if dash[1] else "none"
        chips.append(
            '<label class="chip"><input type="checkbox" checked '
            f'value="{escape(a.runs.labels[n], quote=True)}">'
            f'<svg width="22" height="8" aria-hidden="true"><line x1="1" x2="21" y1="4" y2="4" '
            f'stroke="var(--c{colour})" stroke-width="3" stroke-dasharray="{pattern}"/></svg>'
            f"<span>{escape(a.runs.labels[n])}</span></label>"
        )
    sites = "".join(f"<option{' selected' if s == a.site else ''}>{escape(s)}</option>" for s in _flow(a.runs.sites))
    return (
        '<nav id="toolbar" aria-label="what the charts show">'
        f'<label>site <select id="site">{sites}</select></label>'
        f"<details open><summary>{len(a.shown)} cells "
        '<span class="note">switch any off; drag to pan, Ctrl + wheel to zoom, double click to go back</span></summary>'
        '<div class="chips"><button type="button" data-all="1">all</button>'
        '<button type="button" data-all="">none</button>'
        f"{''.join(chips)}</div></details></nav>"
    )


def _flow(sites: Sequence[str]) -> list[str]:
    """Sites in the order of the data flow, as far as their names tell."""
    stages = ("in_proj_in", "conv_in", "conv_pre", "conv_out", "out_proj_in")
    return sorted(
        sites,
        key=lambda s: (
            next((i for i, end in enumerate(stages) if s.endswith(end) and (i != 0 or s == end)), 9),
            "xBC".find(s[0]),
        ),
    )


def section(names: Sequence[str], drawn: dict[str, Chart], tables: dict[str, list[Table]]) -> str:
    parts = []
    for name in names:
        if name in drawn:
            parts.append(_figure(drawn[name]))
        parts += [_table(table) for table in tables.get(name, [])]
    return "".join(parts)


def _figure(chart: Chart) -> str:
    selects = ""
    for parameter, (label, values, first) in chart.selects.items():
        if len(values) < 2:
            continue
        options = "".join(
            f'<option value="{escape(json.dumps(v), quote=True)}"{" selected" if v == first else ""}>'
            f"{escape(str(v))}</option>"
            for v in values
        )
        select = f'<select data-chart="{chart.name}" data-param="{parameter}">{options}</select>'
        selects += f"<label>{escape(label)} {select}</label>"
    return (
        f'<figure id="figure-{chart.name}"><figcaption><h3>{escape(chart.title)}</h3><p>{escape(chart.caption)}</p>'
        f'</figcaption><div class="selects">{selects}</div><div class="chart" id="chart-{chart.name}" role="img" '
        f'aria-label="{escape(chart.title, quote=True)}"></div></figure>'
    )


def _table(table: Table) -> str:
    head = "".join(f'<th{_side(c.right)} scope="col">{escape(c.name)}</th>' for c in table.columns)
    body = "".join(
        "<tr>"
        + "".join(f"<td{_side(c.right, len(v))}>{escape(v)}</td>" for c, v in zip(table.columns, row, strict=True))
        + "</tr>"
        for row in table.shown()[:MOST]
    )
    cut = f'<p class="note">The first {MOST} of {len(table.rows)} rows.</p>' if len(table.rows) > MOST else ""
    unfolded = "" if len(table.rows) > LONG or table.name in FOLDED else " open"
    return (
        f'<details class="table"{unfolded}><summary>{escape(table.title)} '
        f'<span class="note">{len(table.rows)} rows</span></summary><p class="caption">{escape(table.caption)}</p>'
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        f"{cut}</details>"
    )


def _side(right: bool, length: int = 0) -> str:
    return ' class="n"' if right else ' class="wrap"' if length > WRAPPED else ""


def definitions() -> str:
    terms = "".join(
        f"<dt>{escape(term)}</dt><dd>{escape(text)}.</dd>".replace("..", ".") for term, text in sentences.rules()
    )
    return f'<section id="definitions"><h2>Rules and definitions</h2><dl>{terms}</dl></section>'


def _numbers(text: str) -> str:
    """Escaped text with its figures set apart, so that the eye finds them."""
    figure = re.compile(r"(?:[+−±]|&lt;)*\d[\d,.]*(?: ± (?:&lt;)?\d[\d.]*)? ?(?:dB|%)")
    return figure.sub(lambda m: f"<b>{m[0]}</b>", escape(text))
