"""Tables as Markdown, CSV, LaTeX or JSON, for papers and scripts. Warnings go with every one of them."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable

from sweep.compare.answer import Answer, headlines
from sweep.compare.render import sentences
from sweep.compare.tables.table import Table


def markdown(a: Answer, tables: list[Table]) -> str:
    parts = [f"> **Warning:** {_plain(w)}" for w in a.runs.warnings]
    parts += ["\n".join(f"- {_plain(h)}" for h in headlines(a))]
    parts += [
        "\n".join(
            f"- **{v.contrast.knob}** ({_plain(v.contrast.context)}): **{v.verdict}**. {_plain(sentences.verdict(v))}"
            for v in a.verdicts
        )
    ]
    parts += [
        "\n".join(
            f"{n}. **{_plain(r.question)}** The study: {_plain(r.said)} → **{r.verdict}**. {_plain(r.text)}"
            for n, r in enumerate(a.seed, 1)
        )
    ]
    for table in tables:
        head = "| " + " | ".join(_cell(c.name) for c in table.columns) + " |"
        rule = "|" + "|".join("---:" if c.right else ":---" for c in table.columns) + "|"
        rows = ["| " + " | ".join(_cell(v) for v in row) + " |" for row in table.shown()]
        parts.append("\n".join([f"### {_plain(table.title)}", "", _plain(table.caption), "", head, rule, *rows]))
    return "\n\n".join(p for p in parts if p) + "\n"


def csv_(a: Answer, tables: list[Table]) -> str:
    """Raw values, one table that `pandas.read_csv` reads. Of one table its columns; of several of one name all their
    columns behind a `title`; else long: table, title, row, column, value. Warnings are in a column of their own."""
    warned = " | ".join(map(_line, a.runs.warnings))
    if len({t.name for t in tables}) > 1:
        head = ["table", "title", "row", "column", "value"]
        rows: list[list[object]] = [
            [t.name, _line(t.title), i, column.name, value]
            for t in tables
            for i, row in enumerate(t.rows)
            for column, value in zip(t.columns, row, strict=True)
        ]
    else:
        names = list(dict.fromkeys(c.name for t in tables for c in t.columns))
        head = names if len(tables) == 1 else ["title", *names]
        rows = []
        for t in tables:
            for row in t.rows:
                values = dict(zip((c.name for c in t.columns), row, strict=True))
                title = [] if len(tables) == 1 else [f"{_line(t.title)}. {_line(t.caption)}"]
                rows.append([*title, *(values.get(name) for name in names)])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*head, *(["warning"] if warned else [])])
    writer.writerows([["" if v is None else v for v in row] + ([warned] if warned else []) for row in rows])
    return out.getvalue()


def latex(a: Answer, tables: list[Table]) -> str:
    """booktabs tables of at most WIDEST columns, each with a caption and a label; needs \\usepackage{booktabs} and a
    Unicode engine or \\usepackage{textcomp}. An error stands beside its value; columns without a value are left out;
    what is still too wide is split, the columns that name a row repeated."""
    parts = [f"% warning: {_line(w)}" for w in a.runs.warnings]
    warned = "".join(f" \\textbf{{Warning: {_tex(w)}}}" for w in a.runs.warnings)
    seen: Counter[str] = Counter()
    for table in tables:
        heads, rows, right = table.merged()
        for chosen in _split(heads, right):
            seen[table.name] += 1
            label = table.name if seen[table.name] == 1 else f"{table.name}-{seen[table.name]}"
            parts.append("\n".join([
                r"\begin{table}[htbp]", r"\centering",
                f"\\caption{{{_tex(table.title)}. {_tex(table.caption)}{warned}}}",
                f"\\label{{tab:{label}}}",
                r"\begin{tabular}{" + "".join("r" if right[i] else "l" for i in chosen) + "}",
                r"\toprule", " & ".join(_tex(heads[i]) for i in chosen) + r" \\", r"\midrule",
                *(" & ".join(_tex(row[i]) for i in chosen) + r" \\" for row in rows),
                r"\bottomrule", r"\end{tabular}", r"\end{table}",
            ]))  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _split(heads: list[str], right: list[bool]) -> list[list[int]]:
    """Numbers of the columns of each part. What names a row: its first column, and a second one if that is a rank,
    layer or text, too."""
    every = list(range(len(heads)))
    if len(heads) <= WIDEST:
        return [every]
    keys = every[: 3 if heads[1] == "rank" else 2 if heads[1] == "layer" or not right[1] else 1]
    rest, room = every[len(keys) :], WIDEST - len(keys)
    return [[*keys, *rest[i : i + room]] for i in range(0, len(rest), room)]


def json_(a: Answer, tables: list[Table]) -> str:
    """{warnings, problems, headlines, verdicts, questions, tables: {name: [{column: raw value}]}}; NaN is null."""
    grouped: dict[str, list[object]] = {}
    for t in tables:
        names = [c.name for c in t.columns]
        rows = [dict(zip(names, map(_finite, row), strict=True)) for row in t.rows]
        grouped.setdefault(t.name, []).append({"title": t.title, "caption": t.caption, "rows": rows})
    return json.dumps(
        {
            "warnings": a.runs.warnings,
            "problems": [{"path": str(p.path), "kind": p.kind, "reason": p.reason} for p in a.runs.problems],
            "headlines": headlines(a),
            "notes": a.notes,
            "verdicts": [
                {"knob": v.contrast.knob, "context": v.contrast.context, "verdict": v.verdict,
                 "sentence": sentences.verdict(v), "decided by": v.kind, "rule": v.rule} for v in a.verdicts
            ],
            "questions": [
                {"question": r.question, "said": r.said, "verdict": r.verdict, "answer": r.text,
                 "evidence": [*r.evidence, *(t.name for t in r.tables)]} for r in a.seed
            ],
            "tables": grouped,
        },
        indent=1,
        ensure_ascii=False,
        allow_nan=False,
    ) + "\n"  # fmt: skip


WIDEST = 8  # columns of a table that fits a page
FORMATS: dict[str, Callable[[Answer, list[Table]], str]] = {
    "markdown": markdown, "csv": csv_, "latex": latex, "json": json_,
}  # fmt: skip


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _line(text: str) -> str:
    return " ".join(text.split())


def _plain(text: str) -> str:
    for sign in "\\`*_<>[]":
        text = text.replace(sign, "\\" + sign)
    return _line(text)


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "−": "$-$", "±": r"$\pm$", "Δ": r"$\Delta$", "∞": r"$\infty$",
    "→": r"$\to$", "≤": r"$\le$", "×": r"$\times$", "…": r"\ldots{}", "<": "$<$", ">": "$>$",
    "²": "$^2$", "·": r"$\cdot$", "–": "--",
}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(TEX.get(sign, sign) for sign in _line(text))
