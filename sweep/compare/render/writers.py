"""Tables as Markdown, CSV, LaTeX or JSON, for papers and scripts. Warnings go with every one of them."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from textwrap import wrap

from sweep.compare.answer import Answer, headlines
from sweep.compare.render import sentences
from sweep.compare.tables.table import Table, naming


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
    """booktabs tables that fit a page of LaTeX's article, each with a caption and a label; needs \\usepackage{booktabs}
    and a Unicode engine or \\usepackage{textcomp}. An error stands beside its value; columns without a value are left
    out; a table of more than WIDEST columns, LINE characters or LONGEST lines is split, the columns that name a row
    repeated; texts of more than BROKEN characters break into lines."""
    parts = [f"% warning: {_line(w)}" for w in a.runs.warnings]
    warned = "".join(f" \\textbf{{Warning: {_tex(w)}}}" for w in a.runs.warnings)
    seen: Counter[str] = Counter()
    for table in tables:
        heads, every, right = table.merged()
        broken = [wrap(head, BROKEN) if side else [head] for head, side in zip(heads, right, strict=True)]
        sizes = [max(len(text) for text in (*broken[i], *(row[i] for row in every))) for i in range(len(heads))]
        columns = [(chosen, *_long(chosen, right, sizes)) for chosen in _split(naming(heads, every, right), sizes)]
        for chosen, long, share, rows in ((*c, page) for c in columns for page in _pages(every, c[1], c[2])):
            seen[table.name] += 1
            label = table.name if seen[table.name] == 1 else f"{table.name}-{seen[table.name]}"
            sides = [f"p{{{share / 2:g}em}}" if i in long else "r" if right[i] else "l" for i in chosen]
            if len(parts) % FLOATS == FLOATS - 1:
                parts.append(r"\clearpage")
            parts.append("\n".join([
                r"\begin{table}[htbp]", r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
                f"\\caption{{{_tex(table.title)}. {_tex(table.caption)}{warned}}}",
                f"\\label{{tab:{label}}}",
                r"\begin{tabular}{" + "".join(sides) + "}",
                r"\toprule", " & ".join(_head(broken[i]) for i in chosen) + r" \\", r"\midrule",
                *(" & ".join(_tex(row[i]) for i in chosen) + r" \\" for row in rows),
                r"\bottomrule", r"\end{tabular}", r"\end{table}",
            ]))  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _head(lines: list[str]) -> str:
    if len(lines) == 1:
        return _tex(lines[0])
    return r"\shortstack[r]{" + r"\\".join(map(_tex, lines)) + "}"


def _split(naming: int, sizes: list[int]) -> list[list[int]]:
    """Numbers of the columns of each part. naming: how many of the first columns name a row, and are in all of them.
    sizes: characters of each column."""
    every, taken = list(range(len(sizes))), [min(size, BROKEN) + 2 for size in sizes]
    if len(every) <= WIDEST and sum(taken) <= LINE:
        return [every]
    keys = every[:naming]
    parts = [list(keys)]
    for i in every[len(keys) :]:
        full = len(parts[-1]) == WIDEST or sum(taken[k] for k in [*parts[-1], i]) > LINE
        if full and len(parts[-1]) > len(keys):
            parts.append(list(keys))
        parts[-1].append(i)
    return parts


def _long(chosen: list[int], right: list[bool], sizes: list[int]) -> tuple[list[int], int]:
    """Columns whose texts break into lines, and the characters of such a line; one is about half an em wide."""
    long = [i for i in chosen if not right[i] and sizes[i] > BROKEN]
    room = LINE - sum(sizes[i] + 2 for i in chosen if i not in long)
    return long, max(BROKEN, room // max(1, len(long)) - 5)


def _pages(rows: list[list[str]], long: list[int], share: int) -> Iterator[list[list[str]]]:
    """The rows in pages of at most LONGEST lines, or of one row."""
    page: list[list[str]] = []
    taken = 0
    for row in rows:
        lines = max((len(wrap(row[i], share)) for i in long), default=1)
        if page and taken + lines > LONGEST:
            yield page
            page, taken = [], 0
        page, taken = [*page, row], taken + lines
    yield page


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


WIDEST, LINE, LONGEST = 8, 83, 25  # columns, characters and lines of a table that fits a page
FLOATS = 12  # tables after which LaTeX is asked to set them, lest there be too many that wait for a page
BROKEN = 24  # characters of a text from which it breaks into lines
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
    "/": r"/\allowbreak{}", "²": "$^2$", "·": r"$\cdot$", "–": "--",
}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(TEX.get(sign, sign) for sign in _line(text))
