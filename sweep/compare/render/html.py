"""The parts of a report, for its templates. Jinja2 escapes whatever comes from a run; nowhere else is HTML made."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from sweep.compare.analysis.cost import SQNR
from sweep.compare.analysis.ranking import AS_GOOD, BEST
from sweep.compare.analysis.rules import DEAD, MATTERS, NEGLIGIBLE, NOISE, UNEXAMINED, UNRESOLVED
from sweep.compare.analysis.verdicts import Verdict
from sweep.compare.facts import Answer
from sweep.compare.render import sentences
from sweep.compare.render.numbers import nats, share
from sweep.compare.render.theme import GLYPHS, series
from sweep.compare.studies.quamba_alpha.reply import FAILS, HOLDS, OPEN, STILL
from sweep.compare.tables.table import Column, Table, Value
from sweep.quantization.sites import ordered

TONES = {
    MATTERS: "matters", DEAD: "dead", NEGLIGIBLE: "quiet", NOISE: "quiet", UNRESOLVED: "open", UNEXAMINED: "open",
}  # fmt: skip
ASKED = {HOLDS: "matters", FAILS: "dead", OPEN: "open", STILL: "open"}
WRAPPED = 40  # characters from which a text in a table may break
COSTS = (("measured", "KL, nats"), ("predicted", "predicted, nats"))  # per token
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
    """A table's cell: text for people, raw value for sorting and for a CSV file."""

    text: str
    raw: str
    kind: str  # class of the table's cell: n for a number, wrap for a long text


def table(t: Table, first: bool = True) -> dict[str, Any]:
    """The fields of the table template. first: whether it is the first of its name; others start folded."""
    return {
        "name": t.name,
        "title": t.title,
        "caption": t.caption,
        "heads": [(c.name, "n" if c.right else "") for c in t.columns],
        "rows": [[_shown(c, v) for c, v in zip(t.columns, row, strict=True)] for row in t.rows[:MOST]],
        "count": len(t.rows),
        "most": MOST,
        "open": len(t.rows) <= LONG and t.name not in FOLDED and first,
    }


def _shown(column: Column, value: Value) -> Shown:
    text = column.show(value)
    kind = "n" if column.right else "wrap" if len(text) > WRAPPED else ""
    return Shown(text, _raw(value), kind)


def _raw(value: Value) -> str:
    """A value as a spreadsheet reads it; empty if unknown."""
    return "" if value is None or value != value else repr(value) if isinstance(value, float) else str(value)


def ranking(a: Answer) -> dict[str, Any]:
    """Every setting with its cost, best first within its context; contexts named by the parts that differ."""
    ranked = [(group, rank, row) for group in a.ranking for rank, row in enumerate(group.rows, 1)]
    cells = [a.runs.listed[row.cell] for _, _, row in ranked]
    keys = ("model", "data", "sizes", "dtype", "format", "granularity")
    differing = [key for key in keys if len({getattr(c, key) for c in cells}) > 1]
    costs = [(name, head) for name, head in COSTS if any(getattr(row, name) for _, _, row in ranked)]
    heads = ["#", "setting", *differing, *(head for _, head in costs), "verdict", "SQNR, dB", "clipped"]
    rows = []
    for (_, rank, row), cell in zip(ranked[:MOST], cells, strict=False):
        shown = [Shown(str(rank), str(rank), "n"), Shown(cell.setting, cell.setting, "")]
        shown += [Shown(str(getattr(cell, key)), str(getattr(cell, key)), "") for key in differing]
        for name, _ in costs:
            e = getattr(row, name)
            text = "no prediction" if e is None and name == "predicted" else nats(e, error=name == costs[0][0])
            shown.append(Shown(text, "" if e is None else repr(e.value), "n"))
        shown.append(Shown(row.verdict, row.verdict, "tie" if row.verdict in (BEST, AS_GOOD) else ""))
        rows.append([*shown, _shown(Column("", "db"), row.sqnr), Shown(share(row.clipped), _raw(row.clipped), "n")])
    kinds = list(dict.fromkeys(group.kind for group in a.ranking))
    proxy = " What a setting costs the network was not measured: SQNR is a proxy." if SQNR in kinds else ""
    numeric = {"#", "SQNR, dB", "clipped", *(head for _, head in costs)}
    return {
        "name": "ranking",
        "title": "Ranking",
        "caption": f"By {', '.join(kinds)}; costs are per token, ± is one standard error. Tied: no worse than the best "
        f"beyond error.{proxy}",
        "heads": [(head, "n" if head in numeric else "") for head in heads],
        "rows": rows,
        "count": len(ranked),
        "most": MOST,
        "open": True,
    }


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
