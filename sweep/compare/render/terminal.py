"""The answer in a terminal: one ranked table, then the conclusions in a few lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from sweep.compare.answer import Answer
from sweep.compare.render import sentences
from sweep.compare.render.conclusions import DISPENSABLE, GROW, MEASURE, RUN, Line, conclusions, shortened
from sweep.compare.render.numbers import counted
from sweep.compare.render.ranked import ranked
from sweep.compare.render.take import broken
from sweep.compare.studies.quamba_alpha.reply import FAILS, HOLDS, OPEN, STILL
from sweep.compare.tables.table import Table, naming
from sweep.core import fitted
from sweep.core.console import Console

LINES = 40  # of the whole answer, at 80 columns
LEAST, MOST = 6, 17  # of the ranked table, however much there is to say besides; of several contexts, one row of each
NARROW = 20  # of it, where lines are shorter than 80 columns
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
    shown = RichTable(title=escape(table.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    shown.padding = (0, 1, 0, 0)
    heads, rows, right = table.merged()
    for head, side in zip(heads, right, strict=True):
        shown.add_column(escape(head), justify="right" if side else "left", max_width=WIDEST)
    for row in rows:
        shown.add_row(*map(Text, row))
    fitted.show(shown, console, naming(heads, rows, right))
    if table.caption:
        console.print(Text(table.caption, "dim"))
