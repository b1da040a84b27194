"""The parts of a report, for its templates. Jinja2 escapes whatever comes from a run; nowhere else is HTML made."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from sweep.compare.analysis.rules import DEAD, MATTERS, NEGLIGIBLE, NOISE, UNEXAMINED, UNRESOLVED
from sweep.compare.analysis.verdicts import Verdict
from sweep.compare.facts import Answer
from sweep.compare.render import sentences
from sweep.compare.render.numbers import nats
from sweep.compare.render.theme import GLYPHS, series
from sweep.compare.studies.quamba_alpha.reply import FAILS, HOLDS, OPEN, STILL
from sweep.compare.tables.table import Column, Table, Value
from sweep.quantization.sites import ordered

TONES = {
    MATTERS: "matters", DEAD: "dead", NEGLIGIBLE: "quiet", NOISE: "quiet", UNRESOLVED: "open", UNEXAMINED: "open",
}  # fmt: skip
ASKED = {HOLDS: "matters", FAILS: "dead", OPEN: "open", STILL: "open"}
WRAPPED = 40  # characters from which a text in a table may break
LONG = 14  # rows from which a table starts folded
FOLDED = ("layers", "verdicts")  # tables that say in full what is shown above
MOST = 400  # rows of a table in the page; csv and json have them all
VERDICTS = 200  # of which the page shows as many
FIGURE = re.compile(r"[+−]?\d[\d,.]* ± (?:&lt;)?\d[\d.]*(?: ?(?:dB|%|nats))?|[+−]\d[\d,.]* (?:dB|nats)")
# what tells cells apart, in the order of the switches; field of a cell → heading
DIMENSIONS = (
    ("model", "model"), ("setting", "setting"), ("format", "format"), ("granularity", "granularity"), ("data", "text"),
    ("sizes", "samples x tokens"), ("dtype", "dtype"), ("sweep", "sweep"),
)  # fmt: skip


def environment() -> Environment:
    """Templates of this package, everything escaped unless a template says it is markup."""
    made = Environment(
        loader=PackageLoader("sweep.compare.render"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters["figures"] = figures
    return made


def figures(text: str) -> Markup:
    """Escaped text with its numbers set apart, so that the eye finds them."""
    return Markup(FIGURE.sub(lambda m: f"<b>{m[0]}</b>", str(escape(text))))


def title(a: Answer) -> str:
    sweeps = list(dict.fromkeys(c.sweep for c in a.runs.listed))
    return f"Scales of {', '.join(sweeps[:3])}{' …' if len(sweeps) > 3 else ''}"


@dataclass(frozen=True)
class Shown:
    """A table's cell: text for people, raw value and error for sorting and for a CSV file."""

    text: str
    raw: str
    kind: str  # class of the table's cell: n for a number, wrap for a long text
    error: str | None = None  # standard error to six digits, of a column that has one


def table(t: Table, first: bool = True) -> dict[str, Any]:
    """The fields of the table template: errors beside their values, columns that hold nothing left out. first: whether
    it is the first of its name; others start folded."""
    pairs = [(t.columns[i], i, error) for i, error in t.pairs()]
    rows = [[shown(c, row[i], None if at is None else row[at]) for c, i, at in pairs] for row in t.rows[:MOST]]
    return {
        "name": t.name,
        "title": t.title,
        "caption": t.caption,
        "heads": [head(column, None if at is None else t.columns[at]) for column, _, at in pairs],
        "rows": rows,
        "count": len(t.rows),
        "most": MOST,
        "open": len(t.rows) <= LONG and t.name not in FOLDED and first,
    }


def head(column: Column, error: Column | None = None) -> tuple[str, str, str]:
    """(name, class, name of the column of its errors in a CSV file)"""
    return column.name, "n" if column.right else "", "" if error is None else error.name


def shown(column: Column, value: Value, error: Value = None) -> Shown:
    """A table's cell as the page has it."""
    text = column.show(value)
    kind = "n" if column.right else "wrap" if len(text) > WRAPPED else ""
    told = f"{error:.6g}" if isinstance(error, float) and error == error else raw(error)
    return Shown(column.show_with(value, error), raw(value), kind, told)


def raw(value: Value) -> str:
    """A value as a spreadsheet reads it; empty if unknown."""
    return "" if value is None or value != value else repr(value) if isinstance(value, float) else str(value)


def verdicts(a: Answer) -> list[dict[str, str]]:
    """The parts of every verdict as text, verdicts that matter first."""
    order = list(TONES)
    return [
        {
            "tone": TONES[v.verdict], "verdict": v.verdict, "knob": v.contrast.knob, "context": v.contrast.context,
            "effect": _effect(v), "sentence": sentences.verdict(v), "why": _why(v),
        }
        for v in sorted(a.verdicts, key=lambda v: order.index(v.verdict))[:VERDICTS]
    ]  # fmt: skip


def _effect(v: Verdict) -> str:
    """The largest difference to the baseline: of the cost if it is known, with dB beside, else of the mean SQNR."""
    if v.verdict == DEAD:
        return "none"
    known = {v.contrast.value(e.other): e.overall for e in v.evidence if e.overall[0] == e.overall[0]}
    db = {value: f"{sentences.plus(*overall)} dB" for value, overall in known.items()}
    if v.nats:
        most = max(v.nats, key=lambda n: abs(n.more.value))
        return f"{nats(most.more, signed=True)} nats ({db.get(most.value, 'dB unknown')}) with {most.value}"
    if value := max(known, key=lambda value: abs(known[value][0]), default=None):
        return f"{db[value]} with {value}"
    return f"at {v.counted} of {v.places} places" if v.counted else "unknown"


def _why(v: Verdict) -> str:
    parts = [v.rule]
    if v.verdict == MATTERS:
        parts.append(f"{v.counted} of {v.places} places (layer, site) do by themselves")
    if v.folds > 1:
        parts.append(f"{'paired' if v.paired else 'independent'} errors from {v.folds} folds")
    return "; ".join(parts) + "."


def questions(a: Answer) -> list[dict[str, str]]:
    """The questions of the study this project grew from, in its order, with what it said."""
    return [
        {"question": r.question, "verdict": r.verdict, "tone": ASKED.get(r.verdict, ""), "said": r.said, "text": r.text}
        for r in a.seed
    ]


def switches(a: Answer) -> list[dict[str, Any]]:
    """The properties by which cells can be switched off, with their values, colour and dash."""
    cells = [a.runs.listed[n] for n in a.shown]
    s = series(cells)
    selects = []
    for key, name in DIMENSIONS:
        values = list(dict.fromkeys(str(getattr(c, key)) for c in cells))
        if len(values) > 1:
            colours = {v: s.settings.index(v) for v in values} if key == "setting" else {}
            options = [{"value": v, "colour": colours.get(v), "glyph": _glyph(colours.get(v))} for v in values]
            selects.append({"key": key, "name": name, "values": options})
    return selects


def _glyph(number: int | None) -> str:
    return "" if number is None else GLYPHS[number % len(GLYPHS)]


def dimensions(a: Answer) -> dict[str, dict[str, str]]:
    """Label of each shown cell → its value of every switch."""
    keys = [s["key"] for s in switches(a)]
    return {a.runs.labels[n]: {key: str(getattr(a.runs.listed[n], key)) for key in keys} for n in a.shown}


def sites(a: Answer) -> list[str]:
    return ordered(a.runs.sites)


def choices(selects: dict[str, tuple[str, list[Any], Any]]) -> list[dict[str, Any]]:
    """A chart's own choices, those that have something to choose between."""
    return [
        {
            "parameter": parameter,
            "label": label,
            "first": json.dumps(first),
            "values": [(json.dumps(v), str(v)) for v in values],
        }
        for parameter, (label, values, first) in selects.items()
        if len(values) > 1
    ]
