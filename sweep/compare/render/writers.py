"""Tables as Markdown, CSV, LaTeX or JSON, for papers and scripts. Warnings go with every one of them."""

from __future__ import annotations

import csv
import io
import json
import math
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
    """Raw values; a `#` line before every table and for every warning (pandas: `comment="#"`)."""
    out = io.StringIO()
    for warning in a.runs.warnings:
        out.write(f"# warning: {_line(warning)}\n")
    for table in tables:
        out.write(f"# {table.name}: {_line(table.title)}\n")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([c.name for c in table.columns])
        writer.writerows([["" if v is None else v for v in row] for row in table.rows])
    return out.getvalue()


def latex(a: Answer, tables: list[Table]) -> str:
    """booktabs tables; needs \\usepackage{booktabs} and a Unicode engine or \\usepackage{textcomp}."""
    parts = [f"% warning: {_line(w)}" for w in a.runs.warnings]
    for table in tables:
        head = " & ".join(_tex(c.name) for c in table.columns) + r" \\"
        body = [" & ".join(_tex(v) for v in row) + r" \\" for row in table.shown()]
        warned = "".join(f" \\textbf{{Warning: {_tex(w)}}}" for w in a.runs.warnings)
        parts.append("\n".join([
            r"\begin{table}", r"\centering",
            f"\\caption{{{_tex(table.title)}. {_tex(table.caption)}{warned}}}",
            r"\begin{tabular}{" + "".join("r" if c.right else "l" for c in table.columns) + "}",
            r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}",
        ]))  # fmt: skip
    return "\n\n".join(parts) + "\n"


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
            "verdicts": [
                {"knob": v.contrast.knob, "context": v.contrast.context, "verdict": v.verdict,
                 "sentence": sentences.verdict(v), "rule": v.rule} for v in a.verdicts
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
    "²": "$^2$", "·": r"$\cdot$", "–": "--",
}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(TEX.get(sign, sign) for sign in _line(text))
