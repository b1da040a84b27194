"""Rows of cells read into the database, at once or as they are asked for; damaged cells set apart."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from sweep.compare.query.damage import torn
from sweep.compare.query.database import FEW, GROUPS, NEEDED, SCALES, literal, scan
from sweep.compare.query.filters import Filters
from sweep.core.errors import UsageError
from sweep.runs.compared import Cell, Problem

NONE = ", ".join(f"NULL::INT AS {g}" for g in GROUPS)


def open_cells(
    database: duckdb.DuckDBPyConnection, cells: list[Cell], filters: Filters
) -> tuple[list[Cell], list[Problem]]:
    """Create `scales()` and `rows` from the cells that can be read; the others come back as problems."""
    problems: list[Problem] = []
    while True:
        try:
            _store(database, cells, filters)
            on_demand(database, cells, filters, len(cells) <= FEW)
            return cells, problems
        except duckdb.Error:
            bad = dict(_damaged(database, cells))
            if not bad:
                raise
            problems += [Problem(cell.path, "damaged", why) for cell, why in bad.items()]
            cells = [cell for cell in cells if cell not in bad]
            if not cells:
                raise UsageError(f"no cell can be read; the first: {problems[0]}") from None


def no_cells(database: duckdb.DuckDBPyConnection, cells: list[Cell]) -> bool:
    """Create `scales()`, and `rows` without any; for cells of one scale a site, all of whose rows are asked for. False
    if the first one's table, which has the columns, cannot be read."""
    try:
        on_demand(database, cells, Filters())
    except duckdb.Error:
        return False
    database.execute("CREATE TABLE stored (cell INT, layer INT, site VARCHAR, scale DOUBLE, sqnr_db DOUBLE)")
    database.execute(f"CREATE VIEW rows AS SELECT cell, layer, site, {NONE}, scale, sqnr_db FROM stored")
    return True


def more_cells(database: duckdb.DuckDBPyConnection, cells: list[Cell], numbers: list[int]) -> dict[int, Problem]:
    """Add the rows of cells to those of `no_cells`; the cells that cannot be read, or of FEW at most any table of which
    is torn, come back as problems, by number."""
    bad = {problem.path: problem for problem in (torn(cells) if len(cells) <= FEW else [])}
    problems = {n: bad[cell.path] for n, cell in zip(numbers, cells, strict=True) if cell.path in bad}
    left = {n: cell for n, cell in zip(numbers, cells, strict=True) if n not in problems}
    while left:
        chosen = list(left.values())
        table = scan(chosen, SCALES, list(left), files=_files(database, "more", chosen))
        try:
            database.execute(f"INSERT INTO stored SELECT cell, layer, site, scale, sqnr_db FROM {table}")
            break
        except duckdb.Error:
            why = {cell.path: reason for cell, reason in _damaged(database, chosen)}
            if not why:
                raise
            problems |= {n: Problem(c.path, "damaged", why[c.path]) for n, c in left.items() if c.path in why}
            left = {n: cell for n, cell in left.items() if n not in problems}
    return problems


def on_demand(
    database: duckdb.DuckDBPyConnection,
    cells: list[Cell],
    filters: Filters,
    whole: bool = False,
    numbers: list[int] | None = None,
) -> None:
    """Create `scales()`, a macro, whose rows are read when it is asked. whole, numbers: see `scan`; if not whole, only
    the first file is looked into before."""
    every = scan(cells, SCALES, numbers, whole, files=_files(database, "every", cells))
    database.execute(f"CREATE OR REPLACE MACRO scales() AS TABLE SELECT * FROM {every} WHERE {filters.rows}")


def _store(database: duckdb.DuckDBPyConnection, cells: list[Cell], filters: Filters) -> None:
    """Create `rows`. Most of a huge comparison is reading columns, so tables of one scale a site give none of groups,
    and where there are no others nothing is stored for them."""
    grouped = [i for i, cell in enumerate(cells) if cell.granularity != "tensor"]
    plain = [i for i, cell in enumerate(cells) if cell.granularity == "tensor"]
    parts = []
    for kind, numbers, groups in (("plain", plain, NONE if grouped else ""), ("grouped", grouped, ", ".join(GROUPS))):
        if numbers:
            chosen = [cells[i] for i in numbers]
            table = scan(chosen, SCALES, numbers, files=_files(database, kind, chosen))
            columns = ", ".join(filter(None, ("cell, layer, site", groups, "scale, sqnr_db")))
            parts.append(f"SELECT {columns} FROM {table} WHERE {filters.rows}")
    database.execute(f"CREATE OR REPLACE TABLE stored AS {' UNION ALL '.join(parts)}")
    groups = ", ".join(GROUPS) if grouped else NONE
    database.execute(f"CREATE OR REPLACE VIEW rows AS SELECT cell, layer, site, {groups}, scale, sqnr_db FROM stored")


def _damaged(database: duckdb.DuckDBPyConnection, cells: list[Cell]) -> list[tuple[Cell, str]]:
    """The cells whose table cannot be read, and why; found by halving, since most tables are sound."""
    try:
        database.execute(f"SELECT sum(hash(COLUMNS(*))) FROM (SELECT {NEEDED} FROM {scan(cells, SCALES)})")
        return []
    except duckdb.Error as error:
        if len(cells) == 1:
            return [(cells[0], f"scales.parquet: {str(error).splitlines()[0]}")]
        half = len(cells) // 2
        return _damaged(database, cells[:half]) + _damaged(database, cells[half:])


def _files(database: duckdb.DuckDBPyConnection, kind: str, cells: Sequence[Cell]) -> str:
    """SQL for the list of the cells' scales.parquet, handed over as a value: ten thousand names are long to parse."""
    database.execute(f"SET VARIABLE {kind}_files = ?", [[literal(cell, SCALES) for cell in cells]])
    return f"getvariable('{kind}_files')"
