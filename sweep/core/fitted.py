"""Tables on a terminal of any width, whole: no number is cut off, and none loses its error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

ENDLESS = 10_000  # columns of a terminal on which everything fits


def show(table: Table, console: Console, keys: int = 1) -> None:
    """Print a table: as it is where it fits, else in parts below one another, else row by row, a line for each value.

    keys: how many of its first columns name a row. Every part has them, all but the first one if they take more than
    half of the width; where even these do, or name several rows alike, there are no parts. A column whose heading
    begins with ± has the errors of the one before it, and stays beside it."""
    every = list(range(len(table.columns)))
    parts = _parts(table, every[:keys], _Widths(table, every, console), console.width)
    if parts == [every]:
        console.print(table)
        return
    if table.title:
        console.print(table.title, style="table.title", highlight=False)
    for part in parts:
        console.print(_part(table, part))
    if not parts:
        for line in _records(table, keys):
            console.print(line)


class _Widths:
    """The width of any columns of a table, side by side."""

    def __init__(self, table: Table, every: Sequence[int], console: Console) -> None:
        def of(*chosen: int) -> int:
            return console.measure(_part(table, chosen), options=console.options.update(width=ENDLESS)).maximum

        self._alone = [of(i) for i in every]
        self._shared = self._alone[0] + self._alone[1] - of(0, 1) if len(every) > 1 else 0  # the frame is there once

    def __call__(self, columns: Sequence[int]) -> int:
        return sum(self._alone[i] for i in columns) - self._shared * (len(columns) - 1)


def _parts(table: Table, keys: list[int], widths: _Widths, width: int) -> list[list[int]]:
    """Numbers of the columns of each part that fits; none where a part would be too wide."""
    every = list(range(len(table.columns)))
    if widths(every) <= width:
        return [every]
    if len(keys) > 1 and widths(keys) > width / 2:
        keys = keys[1:]
        if len({tuple(map(str, row)) for row in _cells(table, keys)}) < table.row_count:
            return []
    units = [unit for unit in _units(table) if unit[0] not in keys]
    if widths(keys) > width / 2 or any(widths([*keys, *unit]) > width for unit in units):
        return []
    parts = [list(keys)]
    for unit in units:
        if len(parts[-1]) > len(keys) and widths([*parts[-1], *unit]) > width:
            parts.append(list(keys))
        parts[-1] += unit
    return parts


def _units(table: Table) -> list[list[int]]:
    """Numbers of the columns that stay together: one, or one and its errors."""
    units: list[list[int]] = []
    for i, column in enumerate(table.columns):
        if units and str(column.header).startswith("±"):
            units[-1].append(i)
        else:
            units.append([i])
    return units


def _part(table: Table, columns: Sequence[int]) -> Table:
    """A table of some columns, without a title."""
    part = Table(box=table.box, pad_edge=table.pad_edge, padding=table.padding)
    for i in columns:
        column = table.columns[i]
        part.add_column(
            column.header, justify=column.justify, no_wrap=column.no_wrap, min_width=column.min_width,
            max_width=column.max_width,
        )  # fmt: skip
    for row, cells in zip(table.rows, _cells(table), strict=True):
        part.add_row(*(cells[i] for i in columns), style=row.style)
    return part


def _records(table: Table, keys: int) -> Iterator[Text]:
    """The lines of all rows: what names a row, then its values below, each with its error."""
    heads = [" ".join(Text.from_markup(str(column.header)).plain.split()) for column in table.columns]
    units = [unit for unit in _units(table) if unit[0] >= keys]
    longest = max((len(heads[unit[0]]) for unit in units), default=0)
    for cells in _cells(table):
        yield Text("  ".join(text for cell in cells[:keys] if (text := str(cell))), "bold")
        for unit in units:
            value, *errors = (str(cells[i]) for i in unit)
            if said := " ".join(filter(None, [value, *(f"± {error}" for error in errors if error)])):
                yield Text(f"  {heads[unit[0]].ljust(longest)}  {said}")


def _cells(table: Table, columns: Sequence[int] | None = None) -> list[tuple[RenderableType, ...]]:
    """The cells of every row, in all columns unless some are given."""
    chosen = table.columns if columns is None else [table.columns[i] for i in columns]
    return list(zip(*(column.cells for column in chosen), strict=True))
