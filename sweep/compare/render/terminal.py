"""The answer in a terminal: one ranked table, then the conclusions in a few lines."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from sweep.compare.analysis.contexts import short
from sweep.compare.analysis.cost import SQNR
from sweep.compare.analysis.ranking import AS_GOOD, BEST, UNRANKED, Group, Row
from sweep.compare.answer import Answer
from sweep.compare.render import sentences
from sweep.compare.render.conclusions import DISPENSABLE, GROW, MEASURE, RUN, Line, conclusions, shortened
from sweep.compare.render.numbers import nats, share
from sweep.compare.render.take import broken
from sweep.compare.studies.quamba_alpha.reply import FAILS, HOLDS, OPEN, STILL
from sweep.compare.tables.table import Column, Table
from sweep.core.console import Console

LINES = 40  # of the whole answer, at 80 columns
LEAST, MOST = 6, 17  # of the ranked table, however much there is to say besides; of several contexts, one row of each
NARROW = 20  # of it, where lines are shorter than 80 columns
HEADINGS = {
    "measured": "KL, nats", "predicted": "predicted, nats", "sqnr": "SQNR dB", "lost": "against best", "verdict": "",
    "rise": "Δ perplexity",
}  # fmt: skip
# in turn, until the rest fits: columns that do not rank before the errors of those that do
LEFT_OUT = ("", "perplexity", "second", "rise", "clipped", "sqnr", "errors")
LEFT_OUT_OF_SQNR = ("", "perplexity", "rise", "predicted", "measured", "clipped", "errors", "lost")
GAP = "  "
WIDEST = 40  # characters of a column of any other table; beyond, its text wraps


def show(a: Answer, console: Console, explain: bool = False) -> None:
    """Print the answer: one ranked table and the conclusions. explain: the study's questions and SiLU, too."""
    cells = a.runs.listed
    models = sorted({c.model for c in cells})
    head = [Text(f"{counted(len(cells), 'cell')} · {', '.join(models[:6])}{' …' if len(models) > 6 else ''}", "bold")]
    head += [Text(f"! {warning}", "bold yellow") for warning in a.runs.warnings]
    least = max(LEAST, min(MOST, 2 * len(a.ranking) + 1)) if console.width >= 80 else NARROW
    lines = conclusions(a)
    for excess in range(len(DISPENSABLE) + 1):
        tail = _tail(a, shortened(lines, excess), console)
        room = LINES - 3 - sum(len(text.wrap(console, console.width)) for text in [*head, *tail])
        if room >= least:  # two blank lines, one names the report
            break
    table = ranked(a.ranking, console.width, max(least, room))
    for text in [*head, Text(), *table, Text(), *tail]:
        console.print(text, soft_wrap=False)
    if explain:
        _explained(a, console)


def _tail(a: Answer, lines: Sequence[Line], console: Console) -> list[Text]:
    """What stands below the ranked table."""
    tail = []
    for label, said in lines:
        command = label in (RUN, MEASURE, GROW) and len(f"{label}: {said}") > console.width  # which is to be copied
        words = f"\n{broken(said, console.width)}" if command else f" {said}"
        tail.append(Text.assemble((f"{label}:", "bold"), words))
    if a.runs.problems:
        kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(p.kind for p in a.runs.problems).items())
        tail.append(Text(f"not compared: {kinds}; --table problems says why", "yellow"))
    tail += [Text(note, "dim") for note in a.notes]
    return [*tail, Text("all else: the report, --table NAME, --table all", "dim")]


def counted(number: int, noun: str) -> str:
    """`1 cell`, `2 cells`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def ranked(groups: Sequence[Group], width: int, most: int) -> list[Text]:
    """The ranked table in at most `most` lines of `width` columns; the best rows of every group if not all fit."""
    shown = groups[: max(1, (most - 1) // 2)]
    headed = len(groups) > 1
    room = most - 1 - (len(shown) if headed else 0) - (len(shown) < len(groups))
    lengths = _dealt([len(group.rows) for group in shown], room)
    cut = 0 if headed else 1  # a heading says how many there are; one group alone has a line for it
    parts = [
        group.rows[:n] if n >= len(group.rows) else group.rows[: max(1, n - cut)]
        for group, n in zip(shown, lengths, strict=True)
    ]
    costs = all(group.kind != SQNR for group in shown)
    kinds = len({group.kind for group in groups}) > 1
    columns = _fitting([row for part in parts for row in part], width, costs)
    sizes = [max(map(len, column)) for column in columns]
    lines = [_line([column[0] for column in columns], sizes, "bold")]
    at = 1
    names = short([group.context for group in groups])
    for group, name, part in zip(shown, names, parts, strict=False):
        rest = len(group.rows) - len(part)
        name += f" by {group.kind}" if kinds else ""
        more = f" ({len(part)} of {len(group.rows):,})" if rest else ""
        if headed:
            lines.append(Text(f"{name}{more}"[:width], "bold cyan"))
        for row in part:
            style = {BEST: "bold green", AS_GOOD: "green", UNRANKED: "dim"}.get(row.verdict, "")
            lines.append(_line([column[at] for column in columns], sizes, style))
            at += 1
        if rest and not headed:
            lines.append(Text(f"… {rest:,} more: --table settings", "dim"))
    if len(shown) < len(groups):
        lines.append(Text(f"… {counted(len(groups) - len(shown), 'more context')}: --table settings", "dim"))
    return lines


def _dealt(wanted: Sequence[int], room: int) -> list[int]:
    """Lines for every group: one each, then round by round until there is no room or no want."""
    dealt = [min(1, n) for n in wanted]
    while sum(dealt) < room and any(d < n for d, n in zip(dealt, wanted, strict=True)):
        for i, n in enumerate(wanted):
            if dealt[i] < n and sum(dealt) < room:
                dealt[i] += 1
    return dealt


def _fitting(rows: Sequence[Row], width: int, ranked_by_cost: bool) -> list[list[str]]:
    """Columns with their headings that fit; numbers keep their errors as long as they can."""
    costs = [key for key in ("measured", "predicted") if any(getattr(r, key) for r in rows)]
    text = [key for key in ("perplexity", "rise") if any(getattr(r, key) for r in rows)]
    lost = [] if ranked_by_cost or not any(r.lost for r in rows) else ["lost"]
    names = ["setting", *costs, *text, "sqnr", *lost, "clipped", "verdict"]
    second = "predicted" if all(r.measured or r.verdict == UNRANKED for r in rows) else ""
    errors = True
    for step in LEFT_OUT if ranked_by_cost else LEFT_OUT_OF_SQNR:
        errors = errors and step != "errors"
        names = [name for name in names if name != (second if step == "second" else step)]
        columns = [_column(name, rows, errors) for name in names]
        if sum(max(map(len, c)) for c in columns) + len(GAP) * (len(columns) - 1) <= width:
            return columns
    over = sum(max(map(len, c)) for c in columns) + len(GAP) * (len(columns) - 1) - width
    longest = max(8, max(map(len, columns[0])) - over)
    columns[0] = [text if len(text) <= longest else f"{text[: longest - 1]}…" for text in columns[0]]
    return columns


def _column(name: str, rows: Sequence[Row], errors: bool) -> list[str]:
    def show(row: Row) -> str:
        value = getattr(row, name)
        if name == "sqnr":
            return Column("", "db").show(value)
        if name == "clipped":
            return share(value)
        if name == "lost":
            return "" if value is None else sentences.plus(-value.value, value.se if errors else math.nan)
        if name == "predicted" and value is None:
            return "no prediction"
        if name == "perplexity":  # its error is that of the texts, which all settings share
            return nats(value, error=False)
        return value if isinstance(value, str) else nats(value, errors, name == "rise")

    return [HEADINGS.get(name, name), *map(show, rows)]


def _line(cells: Sequence[str], sizes: Sequence[int], style: str) -> Text:
    first, *middle, last = zip(cells, sizes, strict=True)
    parts = [first[0].ljust(first[1]), *(text.rjust(size) for text, size in middle), last[0]]
    return Text(GAP.join(parts).rstrip(), style)


def _explained(a: Answer, console: Console) -> None:
    for text in sentences.silu(a.silu):
        console.print(Text(f"→ {text}"))
    answered = [reply for reply in a.seed if reply.verdict != OPEN]
    if not answered:
        return
    console.print("\n[bold]The questions of the study this project grew from[/]")
    for number, reply in enumerate(answered, 1):
        style = {HOLDS: "green", FAILS: "bold red", STILL: "yellow"}.get(reply.verdict, "cyan")
        console.print(Text.assemble(f"\n{number}. {reply.question}  ", (reply.verdict, style)))
        console.print(Padding(Text(f"The study: {reply.said}", "dim"), (0, 0, 0, 3)))
        console.print(Padding(Text(reply.text), (0, 0, 0, 3)))
    if left := len(a.seed) - len(answered):
        console.print(f"\n{counted(left, 'question')} of it cannot be answered from these cells.")


def show_table(table: Table, console: Console) -> None:
    """Print one table in full, with what its caption says of it."""
    heads, rows, right = table.merged()
    sizes = [min(WIDEST, max(len(head), *(len(row[i]) for row in rows))) for i, head in enumerate(heads)]
    for number, part in enumerate(_parts(sizes, right, console.width)):
        rich = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        if not number:
            rich.title, rich.title_justify = escape(table.title), "left"
        for i in part:
            rich.add_column(escape(heads[i]), justify="right" if right[i] else "left", max_width=WIDEST)
        for row in rows:
            rich.add_row(*(Text(row[i]) for i in part))
        console.print(rich)
    if table.caption:
        console.print(Text(table.caption, "dim"))


def _parts(sizes: Sequence[int], right: Sequence[bool], width: int) -> list[list[int]]:
    """Numbers of the columns of each part that fits. If there are several, each has the columns that name a row: those
    before the first number, at most two, as far as they leave half of the width."""
    every = list(range(len(sizes)))
    if sum(sizes) + 2 * len(sizes) <= width:
        return [every]
    keys = every[: max(1, min(2, right.index(True) if True in right else 1))]
    while len(keys) > 1 and sum(sizes[i] + 2 for i in keys) > width / 2:
        keys.pop()
    parts: list[list[int]] = [list(keys)]
    for i in every[len(keys) :]:
        if len(parts[-1]) > len(keys) and sum(sizes[k] + 2 for k in [*parts[-1], i]) > width:
            parts.append(list(keys))
        parts[-1].append(i)
    return parts
