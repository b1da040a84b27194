"""The in-memory database behind a comparison: tables made from run directories, damaged cells set apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import duckdb

from sweep.compare.cells import Cell, Problem
from sweep.compare.filters import Filters
from sweep.compare.grid import calibrations
from sweep.errors import UsageError

SCALES, REPLICATES, CONVERGENCE, HISTOGRAMS = (
    f"{name}.parquet" for name in ("scales", "replicates", "convergence", "histograms")
)
GROUPS = ("ssd_group", "head_group", "dim_group")
TEXTS = (
    "name", "sweep", "model", "method", "format", "granularity", "data", "key", "tokens", "identity", "weights",
    "dtype", "sizes",
)  # fmt: skip
NEEDED = f"layer, site, {', '.join(GROUPS)}, scale, scale_se, sqnr_db, n, mse"

# The SQNR of a site whose groups have scales of their own is that of all its values together: groups count
# by their share of the signal's energy, which is n * mse * 10^(sqnr/10).
WEIGHTS = """
CREATE TABLE weights AS
SELECT *, energy / sum(energy) OVER (PARTITION BY cell, layer, site) AS share
FROM (SELECT *, CASE WHEN isfinite(sqnr_db) THEN n * mse * pow(10, sqnr_db / 10) ELSE 0 END AS energy FROM {})"""
# a site of one group keeps its bits: a round trip through decibels would change the last ones
POOL = "CASE WHEN count(*) = 1 THEN any_value(sqnr_db) ELSE -10 * log10(sum(share * pow(10, -sqnr_db / 10))) END"
POOLED = f"""
CREATE TABLE points AS
SELECT cell, layer, site, scale, sqnr_db FROM rows WHERE cell NOT IN (SELECT cell FROM weights)
UNION ALL
SELECT cell, layer, site, avg(scale), {POOL} FROM weights GROUP BY cell, layer, site"""


def ordered(cells: list[Cell]) -> list[Cell]:
    """The order in which tables and legends show them."""

    def key(c: Cell) -> tuple[object, ...]:
        context = (c.model, c.data, c.format != "int8", c.format, c.granularity != "tensor", c.granularity)
        return (*context, c.method, c.alpha or 0.0, c.asked_alpha or 0.0, c.finished)

    return sorted(cells, key=key)


def open_cells(
    database: duckdb.DuckDBPyConnection, cells: list[Cell], filters: Filters
) -> tuple[list[Cell], list[Problem]]:
    """Create `scales` and `rows` from the cells that can be read; the others come back as problems."""
    problems: list[Problem] = []
    while True:
        try:
            database.execute(
                f"CREATE OR REPLACE VIEW scales AS SELECT * FROM {scan(cells, SCALES)} WHERE {filters.rows}"
            )
            database.execute(f"CREATE OR REPLACE TABLE rows AS {_rows(cells, filters)}")
            return cells, problems
        except duckdb.Error:
            bad = dict(_damaged(database, cells))
            if not bad:
                raise
            problems += [Problem(cell.path, "damaged", why) for cell, why in bad.items()]
            cells = [cell for cell in cells if cell not in bad]
            if not cells:
                raise UsageError(f"no cell can be read; the first: {problems[0]}") from None


def _rows(cells: list[Cell], filters: Filters) -> str:
    """Half of the time of a huge comparison goes into reading columns: one-scale tables lack groups anyway."""
    parts = []
    for grouped in (False, True):
        numbers = [i for i, cell in enumerate(cells) if (cell.granularity != "tensor") is grouped]
        if numbers:
            groups = ", ".join(g if grouped else f"NULL::INT AS {g}" for g in GROUPS)
            table = scan([cells[i] for i in numbers], SCALES, numbers)
            parts.append(f"SELECT cell, layer, site, {groups}, scale, sqnr_db FROM {table} WHERE {filters.rows}")
    return " UNION ALL ".join(parts)


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


def scan(cells: Sequence[Cell], name: str, numbers: Sequence[int] | None = None) -> str:
    """SQL for the rows of a file of every cell, with the cell's number (its position unless given)."""
    files = ", ".join(_quoted(cell.path / name) for cell in cells)
    if numbers is None or list(numbers) == list(range(len(cells))):
        number = "file_index::INT"
    else:
        number = f"list_extract({list(numbers)}, file_index::INT + 1)"
    # hive_partitioning would take a directory called alpha=0.9995 for a column
    return f"(SELECT {number} AS cell, * FROM read_parquet([{files}], hive_partitioning = false))"


def register(database: duckdb.DuckDBPyConnection, cells: list[Cell], names: list[str], filters: Filters) -> None:
    import pyarrow as pa

    letters = calibrations(cells)
    columns = {
        "cell": pa.array(range(len(cells)), pa.int32()),
        "label": pa.array(names, pa.string()),
        "calibration": pa.array(letters, pa.string()),
        "path": pa.array([str(c.path) for c in cells], pa.string()),
        **{name: pa.array([getattr(c, name) for c in cells], pa.string()) for name in TEXTS},
        "alpha": pa.array([c.alpha for c in cells], pa.float64()),
        "folds": pa.array([c.folds for c in cells], pa.int32()),
        "finished": pa.array([c.finished for c in cells], pa.string()),
    }
    database.register("described", pa.table(columns))
    database.execute("CREATE TABLE cells AS FROM described")
    grouped = [i for i, cell in enumerate(cells) if cell.granularity != "tensor"]
    if not grouped:
        database.execute("CREATE VIEW points AS SELECT cell, layer, site, scale, sqnr_db FROM rows")
        return
    table = scan([cells[i] for i in grouped], SCALES, grouped)
    database.execute(WEIGHTS.format(f"{table} WHERE {filters.rows}"))
    database.execute(POOLED)


def _quoted(path: Path) -> str:
    """An SQL string that names this very file: DuckDB reads * ? [ in a path as a pattern, even in a list."""
    text = re.sub(r"[*?\[]", lambda match: f"[{match[0]}]", str(path))
    return "'" + text.replace("'", "''") + "'"
