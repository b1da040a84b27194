"""The query layer: any number of run directories as one in-memory database.

    from sweep.compare import load

    runs = load("runs/seed", "runs/*2.7b*", site="x_conv_out")
    runs.cells()        # one row per cell: path, model, method, alpha, …, label, calibration
    runs.scales()       # the rows of scales.parquet, with the cell's number
    runs.frame("SELECT cell, avg(sqnr_db) FROM rows GROUP BY cell")
    runs.problems       # unfinished and damaged cells, with the reason
    runs.warnings       # why some of the cells are not comparable

The parquet files are read where they lie: there is no index that could go stale. Neither torch nor wandb is
imported, and pandas only when a DataFrame is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from sweep.compare.cells import Cell, Problem, find, read
from sweep.compare.filters import Filters
from sweep.compare.grid import calibrations, labels, warnings
from sweep.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

Arrays = dict[str, NDArray[Any]]

SCALES, REPLICATES, CONVERGENCE, HISTOGRAMS = (
    f"{name}.parquet" for name in ("scales", "replicates", "convergence", "histograms")
)
GROUPS = ("ssd_group", "head_group", "dim_group")

# The SQNR of a site whose groups have scales of their own is that of all its values together: groups count
# by their share of the signal's energy, which is n * mse * 10^(sqnr/10).
WEIGHTS = """
CREATE TABLE weights AS
SELECT *, energy / sum(energy) OVER (PARTITION BY cell, layer, site) AS share
FROM (SELECT *, CASE WHEN isfinite(sqnr_db) THEN n * mse * pow(10, sqnr_db / 10) ELSE 0 END AS energy FROM {})"""
POOLED = """
CREATE TABLE points AS
SELECT cell, layer, site, scale, sqnr_db FROM rows WHERE cell NOT IN (SELECT cell FROM weights)
UNION ALL
SELECT cell, layer, site, avg(scale), -10 * log10(sum(share * pow(10, -sqnr_db / 10)))
FROM weights GROUP BY cell, layer, site"""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Cells of any number of sweeps, open for questions. `listed[i]` is the cell with number i.

    Tables of the database: `cells`; `scales` (every column, read from disk on demand); `rows` (cell, layer,
    site, groups, scale, sqnr_db, in memory); `points` (the same with groups pooled: one row per site).
    """

    listed: list[Cell]
    problems: list[Problem]
    warnings: list[str]
    labels: list[str]
    sites: list[str]
    filters: Filters
    database: duckdb.DuckDBPyConnection

    def sql(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The result as tuples. Raises duckdb.Error for SQL that is wrong."""
        return self.database.execute(query, list(parameters)).fetchall()

    def arrays(self, query: str, parameters: Sequence[object] = ()) -> Arrays:
        """The result as a NumPy array per column; null becomes NaN in float columns."""
        columns = self.database.execute(query, list(parameters)).fetchnumpy()
        return {name: _plain(column) for name, column in columns.items()}

    def frame(self, query: str, parameters: Sequence[object] = ()) -> pd.DataFrame:
        """The result as a DataFrame. Raises duckdb.Error for SQL that is wrong."""
        return self.database.execute(query, list(parameters)).df()

    def cells(self) -> pd.DataFrame:
        """One row per cell; `calibration` is a letter: cells of one letter are comparable."""
        return self.frame("SELECT * FROM cells ORDER BY cell")

    def scales(self) -> pd.DataFrame:
        """The rows of every scales.parquet with the number and label of its cell, filters applied."""
        return self.frame("SELECT label, s.* FROM scales s JOIN cells USING (cell) ORDER BY ALL")

    def source(self, name: str, cells: Sequence[int] | None = None) -> str | None:
        """SQL for the rows of a file of `cells` (default all) with the cell's number; None if no cell has it.

        name: `replicates.parquet`, `convergence.parquet` or `histograms.parquet`.
        """
        numbers = range(len(self.listed)) if cells is None else sorted(set(cells))
        have = [i for i in numbers if (self.listed[i].path / name).exists()]
        if not have:
            return None
        scan = _scan([self.listed[i] for i in have], name, have)
        return f"(SELECT * FROM {scan} WHERE {self.filters.rows})"


def load(*paths: str | Path, **filters: object) -> Comparison:
    """Open the cells under directories or globs; under the latest sweep of runs/ if none is given.

    filters: site, layer, model, method, alpha, format, granularity – a value, a comma list or a sequence;
    `*` is allowed in names and `0-3` in layers.
    Raises UsageError where nothing matches. Damaged cells do not raise: they are in `.problems`.
    """
    chosen = Filters.parse(**filters)
    listed, problems = read(find([str(p) for p in paths]))
    if not listed:
        raise UsageError(f"none of {len(problems)} cells is finished; the first: {problems[0]}")
    listed = chosen.cells(listed)
    database = duckdb.connect()
    database.execute(
        "SET preserve_insertion_order = false; SET enable_progress_bar = false; SET memory_limit = '1500MB'"
    )
    listed, damaged = _open(database, _sorted(listed), chosen)
    chosen.check(database, _scan(listed, SCALES))
    names = labels(listed)
    _register(database, listed, names, chosen)
    sites = [site for (site,) in database.execute("SELECT DISTINCT site FROM rows ORDER BY site").fetchall()]
    return Comparison(listed, problems + damaged, warnings(listed), names, sites, chosen, database)


def _sorted(cells: list[Cell]) -> list[Cell]:
    """The order in which tables and legends show them."""
    return sorted(
        cells, key=lambda c: (c.model, c.data, c.format != "int8", c.format, c.granularity != "tensor", c.granularity, c.method,
                              c.alpha or 0.0, c.asked_alpha or 0.0, c.finished)
    )  # fmt: skip


def _open(database: duckdb.DuckDBPyConnection, cells: list[Cell], filters: Filters) -> tuple[list[Cell], list[Problem]]:
    """Create `scales` and `rows` from the cells that can be read; the others come back as problems."""
    problems: list[Problem] = []
    while True:
        try:
            database.execute(
                f"CREATE OR REPLACE VIEW scales AS SELECT * FROM {_scan(cells, SCALES)} WHERE {filters.rows}"
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
            scan = _scan([cells[i] for i in numbers], SCALES, numbers)
            parts.append(f"SELECT cell, layer, site, {groups}, scale, sqnr_db FROM {scan} WHERE {filters.rows}")
    return " UNION ALL ".join(parts)


def _damaged(database: duckdb.DuckDBPyConnection, cells: list[Cell]) -> list[tuple[Cell, str]]:
    """The cells whose table cannot be read, and why; found by halving, since most tables are sound."""
    try:
        database.execute(
            f"SELECT sum(hash(COLUMNS(*))) FROM (SELECT {', '.join(GROUPS)}, layer, site, scale, scale_se, sqnr_db, n, mse FROM {_scan(cells, SCALES)})"
        )
        return []
    except duckdb.Error as error:
        if len(cells) == 1:
            return [(cells[0], f"scales.parquet: {str(error).splitlines()[0]}")]
        half = len(cells) // 2
        return _damaged(database, cells[:half]) + _damaged(database, cells[half:])


def _scan(cells: Sequence[Cell], name: str, numbers: Sequence[int] | None = None) -> str:
    """SQL for the rows of a file of every cell, with the cell's number (its position unless given)."""
    files = ", ".join(_quoted(cell.path / name) for cell in cells)
    if numbers is None or list(numbers) == list(range(len(cells))):
        number = "file_index::INT"
    else:
        number = f"list_extract({list(numbers)}, file_index::INT + 1)"
    # hive_partitioning would take a directory called alpha=0.9995 for a column
    return f"(SELECT {number} AS cell, * FROM read_parquet([{files}], hive_partitioning = false))"


def _register(database: duckdb.DuckDBPyConnection, cells: list[Cell], names: list[str], filters: Filters) -> None:
    import pyarrow as pa

    letters = calibrations(cells)
    columns = {
        "cell": pa.array(range(len(cells)), pa.int32()),
        "label": pa.array(names, pa.string()),
        "calibration": pa.array(letters, pa.string()),
        "path": pa.array([str(c.path) for c in cells], pa.string()),
        **{
            name: pa.array([getattr(c, name) for c in cells], pa.string())
            for name in "name sweep model method format granularity data key tokens identity weights dtype sizes".split()
        },
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
    scan = _scan([cells[i] for i in grouped], SCALES, grouped)
    database.execute(WEIGHTS.format(f"{scan} WHERE {filters.rows}"))
    database.execute(POOLED)


def _quoted(path: Path) -> str:
    """An SQL string that names this very file: DuckDB reads * ? [ in a path as a pattern, even in a list."""
    text = re.sub(r"[*?\[]", lambda match: f"[{match[0]}]", str(path))
    return "'" + text.replace("'", "''") + "'"


def _plain(column: NDArray[Any]) -> NDArray[Any]:
    if isinstance(column, np.ma.MaskedArray):
        floating = column.dtype.kind == "f"
        return (
            column.filled(np.nan) if floating else np.asarray(column.filled(-1) if column.dtype.kind == "i" else column)
        )
    return column
