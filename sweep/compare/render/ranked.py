"""The ranked table of the terminal's answer, in as many lines and columns as there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from textwrap import wrap

from rich.text import Text

from sweep.compare.analysis.contexts import short
from sweep.compare.analysis.cost import SQNR, Estimate
from sweep.compare.analysis.ranking import AS_GOOD, BEST, UNRANKED, Group, Row
from sweep.compare.render.numbers import COMPACT, counted, decibels, nats, share
from sweep.compare.render.sentences import plus

HEADINGS = {
    "measured": "KL, nats", "predicted": "predicted, nats", "sqnr": "SQNR dB", "lost": "against best", "verdict": "",
    "rise": "Δ perplexity",
}  # fmt: skip
STYLES = {BEST: "bold green", AS_GOOD: "green", UNRANKED: "dim"}
SHORTEST = 12  # characters of a setting; longer ones go on in the next line where there is no room


@dataclass(frozen=True)
class _Form:
    """How rows are shown. names: their columns, fields of a Row. compact: errors as 0.012(3), headings word by word
    over several lines, one space between columns. by_sqnr: whether SQNR ranks, which then has its error."""

    names: tuple[str, ...]
    compact: bool
    by_sqnr: bool

    def columns(self, rows: Sequence[Row]) -> list[tuple[list[str], list[str]]]:
        """(lines of the heading, text of each row) of every column."""
        heads = [HEADINGS.get(name, name) for name in self.names]
        broken = [head.split(" ", 1) if self.compact else [head] for head in heads]
        return [(head, [self._text(name, row) for row in rows]) for head, name in zip(broken, self.names, strict=True)]

    @property
    def gap(self) -> str:
        return " " if self.compact else "  "

    def _text(self, name: str, row: Row) -> str:
        value = getattr(row, name)
        if name == "sqnr":
            return decibels(value, row.sqnr_se if self.by_sqnr else None, self.compact)
        if name == "clipped":
            return share(value)
        if name == "lost":
            if value is None:
                return ""
            lost = Estimate(-value.value, value.se)
            return nats(lost, signed=True, compact=True) if self.compact else plus(lost.value, lost.se)
        if self.compact and value in (None, UNRANKED):
            return "–"
        if name == "predicted" and value is None:
            return "no prediction"
        if name == "perplexity":  # its error is that of the texts, which all settings share
            return nats(value, error=False)
        return value if isinstance(value, str) else nats(value, signed=name == "rise", compact=self.compact)


def ranked(groups: Sequence[Group], width: int, most: int) -> list[Text]:
    """The ranked table in about `most` lines of `width` columns; the best rows of every group if not all fit."""
    shown = groups[: max(1, (most - 1) // 2)]
    headed = len(groups) > 1
    by_cost = all(group.kind != SQNR for group in shown)
    form = _fitting([row for group in shown for row in group.rows[:most]], width, by_cost)
    above = max(len(head) for head, _ in form.columns([]))
    room = most - above - form.compact - (len(shown) if headed else 0) - (len(shown) < len(groups))
    lengths = _dealt([len(group.rows) for group in shown], room)
    cut = 0 if headed else 1  # a heading says how many there are; one group alone has a line for it
    parts = [
        group.rows[:n] if n >= len(group.rows) else group.rows[: max(1, n - cut)]
        for group, n in zip(shown, lengths, strict=True)
    ]
    rows = [row for part in parts for row in part]
    heading, *written = _written(form, rows, width)
    kinds = len({group.kind for group in groups}) > 1
    lines = list(heading)
    left = iter(written)
    names = short([group.context for group in groups])
    for group, name, part in zip(shown, names, parts, strict=False):
        rest = len(group.rows) - len(part)
        name += f" by {group.kind}" if kinds else ""
        more = f" ({len(part)} of {len(group.rows):,})" if rest else ""
        if headed:
            lines.append(Text(f"{name}{more}"[:width], "bold cyan"))
        for _ in part:
            lines += next(left)
        if rest and not headed:
            lines.append(Text(f"… {rest:,} more: --table settings", "dim"))
    if len(shown) < len(groups):
        lines.append(Text(f"… {counted(len(groups) - len(shown), 'more context')}: --table settings", "dim"))
    return [*lines, *([Text(COMPACT, "dim")] if form.compact else [])]


def _fitting(rows: Sequence[Row], width: int, by_cost: bool) -> _Form:
    """The form that leaves out least. Columns that do not rank go first, in the order given here; then errors are
    written compactly, and whatever has room again is shown. No number that ranks is left out, nor its error."""
    there = [name for name in ("measured", "predicted", "perplexity", "rise") if any(getattr(r, name) for r in rows)]
    lost = ["lost"] if not by_cost and any(r.lost for r in rows) else []
    names = ["setting", *there, "sqnr", *lost, "clipped", "verdict"]
    if by_cost:
        second = ["predicted"] if all(r.measured or r.verdict == UNRANKED for r in rows) else []
        order = ["perplexity", *second, "rise", "clipped", "sqnr"]
    else:
        order = ["perplexity", "rise", "predicted", "measured", "clipped"]
    for compact in (False, True):
        for out in range(len(order) + 1):
            form = _Form(tuple(name for name in names if name not in order[:out]), compact, not by_cost)
            if sum(_sizes(form, rows)) + len(form.gap) * (len(form.names) - 1) <= width:
                return form
    return form


def _sizes(form: _Form, rows: Sequence[Row]) -> list[int]:
    return [max(map(len, [*head, *texts])) for head, texts in form.columns(rows)]


def _written(form: _Form, rows: Sequence[Row], width: int) -> list[list[Text]]:
    """The lines of the heading, then those of each row: one, or more where its setting is too long for the width."""
    sizes = _sizes(form, rows)
    over = sum(sizes) + len(form.gap) * (len(sizes) - 1) - width
    sizes[0] = min(sizes[0], max(SHORTEST, sizes[0] - over))
    heads, texts = zip(*form.columns(rows), strict=True)
    written = [[_line(cells, sizes, form.gap, "bold") for cells in zip_longest(*heads, fillvalue="")]]
    for row, (setting, *others) in zip(rows, zip(*texts, strict=True), strict=True):
        first, *rest = wrap(setting, sizes[0])
        style = STYLES.get(row.verdict, "")
        written.append([_line([first, *others], sizes, form.gap, style), *(Text(f"  {text}", style) for text in rest)])
    return written


def _line(cells: Sequence[str], sizes: Sequence[int], gap: str, style: str) -> Text:
    first, *middle, last = zip(cells, sizes, strict=True)
    parts = [first[0].ljust(first[1]), *(text.rjust(size) for text, size in middle), last[0]]
    return Text(gap.join(parts).rstrip(), style)


def _dealt(wanted: Sequence[int], room: int) -> list[int]:
    """Lines for every group: one each, then round by round until there is no room or no want."""
    dealt = [min(1, n) for n in wanted]
    while sum(dealt) < room and any(d < n for d, n in zip(dealt, wanted, strict=True)):
        for i, n in enumerate(wanted):
            if dealt[i] < n and sum(dealt) < room:
                dealt[i] += 1
    return dealt
