"""The query layer: any number of run directories as one in-memory database.

    from sweep.compare import load

    runs = load("runs/seed", "runs/*2.7b*", site="x_conv_out")
    runs.cells()        # one row per cell: path, model, method, alpha, …, label, calibration
    runs.scales()       # the rows of scales.parquet, with the cell's number
    runs.frame("SELECT cell, avg(sqnr_db) FROM rows GROUP BY cell")
    runs.problems       # failed, unfinished and damaged cells, with the reason
    runs.warnings       # why some of the cells are not comparable

The parquet files are read where they lie: there is no index that could go stale. Neither torch nor wandb is
imported, and pandas only when a DataFrame is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from sweep.compare.query.damage import torn
from sweep.compare.query.database import FEW, GROUPING, SCALES, ordered, register, scan
from sweep.compare.query.filters import Filters
from sweep.compare.query.labels import labels, left_out, warnings
from sweep.compare.query.opening import more_cells, no_cells, on_demand, open_cells
from sweep.core.errors import UsageError
from sweep.runs.compared import Cell, Problem, read
from sweep.runs.discovery import find

if TYPE_CHECKING:
    import pandas as pd

Arrays = dict[str, NDArray[Any]]
OF_ROWS = re.compile(r"\b(rows|points|deployed|stored|scales)\b", re.IGNORECASE)  # tables of rows
QUOTED = re.compile(r"'[^']*'")  # such as a path, which may name anything


@dataclass(frozen=True, eq=False)
class Comparison:
    """Cells of any number of sweeps, open for questions. `listed[i]` is the cell with number i.

    Tables of the database: `cells`; `scales()` (every column, read from disk on demand); `rows` (cell, layer,
    site, groups, scale, sqnr_db, in memory); `points` (the same with groups pooled: one row per site);
    `deployed` (the points at sites that a deployment quantizes); `totals` (cell, print and grid: fingerprints of its
    rows and of their places, sites; of the deployed ones places, finite: those of finite SQNR, mean: of these in dB,
    unknown: of no SQNR).

    unopened: numbers of cells whose rows are not in memory yet. `totals` has them all the same, and a query finds every
    row that it asks for: see `sql`. damaged: those among them whose rows could not be read.
    """

    listed: list[Cell]
    problems: list[Problem]
    warnings: list[str]
    labels: list[str]
    sites: list[str]
    filters: Filters
    database: duckdb.DuckDBPyConnection
    unopened: set[int] = field(default_factory=set)
    damaged: dict[int, Problem] = field(default_factory=dict)

    def sql(
        self, query: str, parameters: Sequence[object] = (), cells: Iterable[int] | None = None
    ) -> list[tuple[Any, ...]]:
        """The result as tuples. cells: numbers of those whose rows it looks at, if it does; every cell's unless given.
        Raises duckdb.Error for SQL that is wrong."""
        self._open(query, cells)
        return self.database.execute(query, list(parameters)).fetchall()

    def arrays(self, query: str, parameters: Sequence[object] = (), cells: Iterable[int] | None = None) -> Arrays:
        """The result as a NumPy array per column; null becomes NaN in float columns. cells: as `sql` takes them."""
        self._open(query, cells)
        columns = self.database.execute(query, list(parameters)).fetchnumpy()
        return {name: _plain(column) for name, column in columns.items()}

    def frame(self, query: str, parameters: Sequence[object] = ()) -> pd.DataFrame:
        """The result as a DataFrame. Raises duckdb.Error for SQL that is wrong."""
        self._open(query, None)
        return self.database.execute(query, list(parameters)).df()

    def cells(self) -> pd.DataFrame:
        """One row per cell; `calibration` is a letter: cells of one letter are comparable."""
        return self.database.execute("SELECT * FROM cells ORDER BY cell").df()

    def scales(self) -> pd.DataFrame:
        """The rows of every scales.parquet with the number and label of its cell, filters applied."""
        return self.frame("SELECT label, s.* FROM scales() s JOIN cells USING (cell) ORDER BY ALL")

    def _open(self, query: str, cells: Iterable[int] | None) -> None:
        """Read the rows of cells, if a query names a table of them."""
        if self.unopened and OF_ROWS.search(QUOTED.sub("", query)):
            self._read(self.unopened if cells is None else cells)

    def _read(self, cells: Iterable[int]) -> None:
        """Read the rows of cells; of a damaged cell there are none, and it is a problem from then on."""
        if not (numbers := sorted(self.unopened.intersection(cells))):
            return
        damaged = more_cells(self.database, [self.listed[n] for n in numbers], numbers)
        self.unopened.difference_update(numbers)
        self.damaged.update(damaged)
        self.problems.extend(damaged.values())
        left = [n for n in range(len(self.listed)) if n not in self.damaged]
        if damaged and left:
            on_demand(self.database, [self.listed[n] for n in left], self.filters, numbers=left)

    def sound(self) -> Comparison:
        """The comparison of the cells that are not damaged: this one, unless some have turned out to be. Raises
        UsageError if all have."""
        if not self.damaged:
            return self
        left = [cell for n, cell in enumerate(self.listed) if n not in self.damaged]
        if not left:
            raise UsageError(f"no cell can be read; the first: {self.problems[0]}")
        return _opened(left, self.problems, self.filters)

    def source(self, name: str, cells: Sequence[int] | None = None) -> str | None:
        """SQL for the rows of a file of `cells` (default all) with the cell's number; None if no cell has it. Every
        cell has its scales: of damaged ones there are none.

        name: `replicates.parquet`, `convergence.parquet`, `histograms.parquet` or `grouping.parquet`, which is of
        x_conv_out and has no column for the site.
        """
        numbers = range(len(self.listed)) if cells is None else sorted(set(cells))
        self._read(numbers)
        have = [i for i in numbers if i not in self.damaged and (self.listed[i].path / name).exists()]
        if not have:
            return "(SELECT * FROM scales() WHERE FALSE)" if name == SCALES and numbers else None
        table = scan([self.listed[i] for i in have], name, have, whole=True)
        return f"(SELECT * FROM {table} WHERE {self.filters.layers if name == GROUPING else self.filters.rows})"


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
    return _opened(chosen.cells(listed), problems, chosen)


def _opened(listed: list[Cell], problems: list[Problem], chosen: Filters) -> Comparison:
    """The comparison of cells. problems: those there are before any table is opened."""
    database = duckdb.connect()
    # prefetching pays for files far away; here it costs a tenth of the time
    database.execute("SET disable_parquet_prefetching = true; SET preserve_insertion_order = false")
    database.execute("SET memory_limit = '1500MB'")
    with suppress(Exception):  # in Jupyter, DuckDB asks for ipywidgets before it will do without its bar
        database.execute("SET enable_progress_bar = false")
    listed = ordered(listed)
    nothing: list[Cell] = []
    whole = len(listed) <= FEW or bool(chosen.site or chosen.layer) or any(cell.totals is None for cell in listed)
    if whole or not no_cells(database, listed):
        bad = torn(listed) if len(listed) <= FEW else []
        listed, damaged = open_cells(database, _without(listed, bad), chosen)
        problems, whole = problems + bad + damaged, True
        chosen.check(database, scan(listed, SCALES))
        there = {number for (number,) in database.execute("SELECT DISTINCT cell FROM rows").fetchall()}
        if len(there) < len(listed):  # of a model that has no such layer, or site, there is nothing to compare
            nothing = [cell for n, cell in enumerate(listed) if n not in there]
            listed, _ = open_cells(database, [cell for n, cell in enumerate(listed) if n in there], chosen)
    names = labels(listed)
    register(database, listed, names, chosen, whole)
    sites = [
        site
        for (site,) in database.execute("SELECT DISTINCT unnest(sites) AS site FROM totals ORDER BY site").fetchall()
    ]
    unopened = set() if whole else set(range(len(listed)))
    return Comparison(
        listed, list(problems), warnings(listed) + left_out(nothing, chosen), names, sites, chosen, database, unopened
    )


def _without(cells: list[Cell], problems: Sequence[Problem]) -> list[Cell]:
    """The others. Raises UsageError if there are none."""
    bad = {problem.path for problem in problems}
    if not (left := [cell for cell in cells if cell.path not in bad]):
        raise UsageError(f"no cell can be read; the first: {problems[0]}")
    return left


def _plain(column: NDArray[Any]) -> NDArray[Any]:
    if isinstance(column, np.ma.MaskedArray):
        floating = column.dtype.kind == "f"
        return (
            column.filled(np.nan) if floating else np.asarray(column.filled(-1) if column.dtype.kind == "i" else column)
        )
    return column
