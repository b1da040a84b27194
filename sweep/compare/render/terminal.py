"""The answer in a terminal: verdicts first, then what follows from them."""

from __future__ import annotations

from rich import box
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from sweep.compare.analysis.verdicts import DEAD, MATTERS, NEGLIGIBLE, NOISE, UNEXAMINED, UNRESOLVED
from sweep.compare.answer import Answer, headlines
from sweep.compare.render import sentences
from sweep.compare.studies.quamba_alpha.reply import FAILS, HOLDS, OPEN, STILL
from sweep.compare.tables.catalogue import problem_table
from sweep.compare.tables.table import Table
from sweep.core.console import Console

MARKS = {
    MATTERS: ("●", "bold green"), DEAD: ("○", "bold red"), NEGLIGIBLE: ("◐", "cyan"), NOISE: ("·", "dim"),
    UNRESOLVED: ("?", "yellow"), UNEXAMINED: ("…", "dim"),
}  # fmt: skip
MOST = 20


def show(a: Answer, console: Console) -> None:
    """Print the answer."""
    runs = a.runs
    models = sorted({c.model for c in runs.listed})
    console.print(
        f"[bold]{len(runs.listed):,} cells[/] · {escape(', '.join(models[:6]))}{' …' if len(models) > 6 else ''}"
    )
    for warning in runs.warnings:
        console.print(f"[bold yellow]! {escape(warning)}[/]")
    _verdicts(a, console)
    console.print()
    for text in headlines(a):
        console.print(Padding(Text(f"→ {text}"), (0, 0, 0, 0)))
    _seed(a, console)
    if runs.problems:
        console.print()
        _print(problem_table(a), console, MOST)
    for note in a.notes:
        console.print(f"[dim]{escape(note)}[/]")


def _verdicts(a: Answer, console: Console) -> None:
    if not a.verdicts:
        console.print("No two cells differ in exactly one knob: nothing to compare.")
        return
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, expand=False)
    table.add_column("verdict", no_wrap=True)
    table.add_column("knob", no_wrap=True)
    table.add_column("what it does", ratio=1)
    shown = sorted(a.verdicts, key=lambda v: list(MARKS).index(v.verdict))[:MOST]
    for v in shown:
        mark, style = MARKS[v.verdict]
        table.add_row(
            Text(f"{mark} {v.verdict}", style=style),
            v.contrast.knob,
            Text.assemble((v.contrast.context, "dim"), "\n", sentences.verdict(v)),
        )
    console.print(table)
    if len(a.verdicts) > len(shown):
        kinds = {kind: sum(v.verdict == kind for v in a.verdicts) for kind in MARKS}
        counts = ", ".join(f"{n} {kind}" for kind, n in kinds.items() if n)
        console.print(f"[dim]{len(a.verdicts):,} verdicts in all: {counts}[/]")


def _seed(a: Answer, console: Console) -> None:
    if not a.seed:
        return
    console.print("\n[bold]The questions of the study this project grew from[/]")
    for number, reply in enumerate(a.seed, 1):
        style = {HOLDS: "green", FAILS: "bold red", OPEN: "yellow", STILL: "yellow"}.get(reply.verdict, "cyan")
        console.print(Text.assemble(f"\n{number}. {reply.question}  ", (reply.verdict, style)))
        console.print(Padding(Text(f"The study: {reply.said}", "dim"), (0, 0, 0, 3)))
        console.print(Padding(Text(reply.text), (0, 0, 0, 3)))


def show_table(table: Table, console: Console) -> None:
    """Print one table in full."""
    _print(table, console, len(table.rows))


def _print(table: Table, console: Console, most: int) -> None:
    rich = RichTable(title=escape(table.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        rich.add_column(escape(column.name), justify="right" if column.right else "left")
    for row in table.shown()[:most]:
        rich.add_row(*(Text(value) for value in row))
    console.print(rich)
    if len(table.rows) > most:
        console.print(f"[dim]… {len(table.rows) - most} more[/]")
