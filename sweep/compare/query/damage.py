"""Tables of cells that cannot be read: those that are torn, told by their ends, and what a failed query ran into."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from sweep.core.errors import UsageError
from sweep.runs.compared import Cell, Problem

TABLES = tuple(
    f"{name}.parquet"
    for name in ("scales", "replicates", "convergence", "histograms", "grouping", "evaluation", "until")
)
_MARK = b"PAR1"  # a Parquet file begins and ends with it; before its end it says how long its description is


def torn(cells: Iterable[Cell]) -> list[Problem]:
    """A problem for every cell that has a table which is cut off or overwritten."""
    return [Problem(c.path, "damaged", f"{name} is torn") for c in cells if (name := _first_torn(c.path))]


@contextmanager
def whole_tables(cells: Iterable[Cell]) -> Iterator[None]:
    """Inside, a query that fails because a table is damaged inside raises UsageError, which names it."""
    try:
        yield
    except duckdb.Error as error:
        if (problem := _unreadable(cells)) is None:
            raise
        raise UsageError(f"{problem}; remove the cell, or compute it again, and compare once more") from error


def _unreadable(cells: Iterable[Cell]) -> Problem | None:
    """The first of all tables of which not every value can be read; None where all can."""
    with duckdb.connect() as database:
        for cell in cells:
            for name in TABLES:
                if (file := cell.path / name).exists():
                    try:
                        database.read_parquet(str(file)).fetchnumpy()
                    except (duckdb.Error, OSError) as error:
                        return Problem(cell.path, "damaged", f"{name}: {str(error).splitlines()[0]}")
    return None


def _first_torn(directory: Path) -> str | None:
    for name in TABLES:
        try:
            with open(f"{directory}/{name}", "rb") as file:  # Path.open takes thrice as long
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                begin = file.read(4)
                file.seek(max(size - 8, 0))
                end = file.read(8)
        except OSError:
            continue
        if begin != _MARK or end[4:] != _MARK or not 0 < int.from_bytes(end[:4], "little") <= size - 12:
            return name
    return None
