"""The in-memory database behind a comparison: tables made from run directories, damaged cells set apart."""

from __future__ import annotations

import re
from collections.abc import Sequence

import duckdb
import numpy as np

from sweep.compare.query.filters import Filters
from sweep.compare.query.labels import calibrations
from sweep.quantization import sites
from sweep.runs.compared import Cell

SCALES, REPLICATES, CONVERGENCE, HISTOGRAMS, GROUPING = (
    f"{name}.parquet" for name in ("scales", "replicates", "convergence", "histograms", "grouping")
)
FEW = 500  # files that are all looked into for the columns of `scales()`; of more the first one's count
PATTERN = re.compile(r"[*?\[]")
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
# a site of one group keeps its bits: a round trip through decibels would change the last ones. Several are summed in
# one order, lest the last bits be others in every run
POOL = (
    "CASE WHEN count(*) = 1 THEN any_value(sqnr_db) "
    "ELSE -10 * log10(sum(share * pow(10, -sqnr_db / 10) ORDER BY share, sqnr_db)) END"
)
POOLED = f"""
CREATE TABLE points AS
SELECT cell, layer, site, scale, sqnr_db FROM rows WHERE cell NOT IN (SELECT cell FROM weights)
UNION ALL
SELECT cell, layer, site, avg(scale ORDER BY scale), {POOL} FROM weights GROUP BY cell, layer, site"""

# bit for bit: two cells of one print differ in no scale and no SQNR
PRINT = f"bit_xor(hash(layer, site, {', '.join(GROUPS)}, scale, sqnr_db)) AS print"
GRID = "bit_xor(hash(layer, site)) AS grid"
SITES = "list(DISTINCT site ORDER BY site) AS sites"
# over quantized sites
MEAN = "avg(sqnr_db ORDER BY sqnr_db) FILTER (isfinite(sqnr_db) AND {0}) AS mean"
COUNTS = (
    "count(*) FILTER ({0}) AS places, count(*) FILTER (isfinite(sqnr_db) AND {0}) AS finite, "
    "count(*) FILTER (scale > 0 AND (sqnr_db IS NULL OR isnan(sqnr_db)) AND {0}) AS unknown"
)


def deployed() -> str:
    """SQL's condition for the sites that a deployment quantizes, of which all is said that is said of a cell as a
    whole: the view `deployed` of `points`."""
    return f"site IN {sites.quantized()}"


def ordered(cells: list[Cell]) -> list[Cell]:
    """The order in which tables and legends show them."""

    def key(c: Cell) -> tuple[object, ...]:
        context = (c.model, c.data, c.format != "int8", c.format, c.granularity != "tensor", c.granularity)
        return (*context, c.method, c.alpha or 0.0, c.asked_alpha or 0.0, c.finished)

    return sorted(cells, key=key)


def scan(
    cells: Sequence[Cell],
    name: str,
    numbers: Sequence[int] | None = None,
    whole: bool = False,
    files: str | None = None,
) -> str:
    """SQL for the rows of a file of every cell, with the cell's number (its position unless given).

    whole: with every column that some file has, null in those of older versions that lack it; else the first one's.
    files: SQL for the list of the files, spelt out unless given."""
    union = ", union_by_name = true" if whole else ""
    files = files or f"[{', '.join(_quoted(literal(cell, name)) for cell in cells)}]"
    if numbers is None or list(numbers) == list(range(len(cells))):
        number = "file_index::INT"
    else:
        number = f"list_extract({list(numbers)}, file_index::INT + 1)"
    # hive_partitioning would take a directory called alpha=0.9995 for a column
    return f"(SELECT {number} AS cell, * FROM read_parquet({files}, hive_partitioning = false{union}))"


def register(
    database: duckdb.DuckDBPyConnection, cells: list[Cell], names: list[str], filters: Filters, whole: bool
) -> None:
    """Create `cells`, `points`, `deployed` and `totals`. whole: whether `rows` has every row; if not, totals are those
    of run.json, which every cell then has."""
    texts = {"label": names, "calibration": calibrations(cells), "path": [str(c.path) for c in cells]}
    texts |= {name: [getattr(c, name) for c in cells] for name in TEXTS}
    columns = {
        "cell": np.arange(len(cells), dtype=np.int32),
        **{name: np.array(values, object) for name, values in texts.items()},
        "alpha": np.array([c.alpha for c in cells], np.float64),
        "folds": np.array([c.folds for c in cells], np.int32),
        "finished": np.array([c.finished for c in cells], object),
    }
    database.register("described", columns)
    database.execute("CREATE TABLE cells AS SELECT * REPLACE (nullif(alpha, 'NaN'::DOUBLE) AS alpha) FROM described")
    grouped = [i for i, cell in enumerate(cells) if cell.granularity != "tensor"]
    if not grouped:
        database.execute("CREATE VIEW points AS SELECT cell, layer, site, scale, sqnr_db FROM rows")
    else:
        table = scan([cells[i] for i in grouped], SCALES, grouped, whole=True)
        database.execute(WEIGHTS.format(f"{table} WHERE {filters.rows}"))
        database.execute(POOLED)
    database.execute(f"CREATE VIEW deployed AS SELECT * FROM points WHERE {deployed()}")
    if not whole:
        _recorded(database, cells)
        return
    sums = f"{GRID}, {MEAN}, {COUNTS}".format(deployed())
    if grouped:
        prints = f"(SELECT cell, {PRINT}, {SITES} FROM rows GROUP BY cell)"
        means = f"(SELECT cell, {sums} FROM points GROUP BY cell)"
        database.execute(f"CREATE TABLE totals AS FROM {prints} JOIN {means} USING (cell)")
    else:  # in one pass
        database.execute(f"CREATE TABLE totals AS SELECT cell, {PRINT}, {SITES}, {sums} FROM rows GROUP BY cell")


def _recorded(database: duckdb.DuckDBPyConnection, cells: list[Cell]) -> None:
    """Create `totals` from what the cells' records say."""
    totals = [cell.totals for cell in cells if cell.totals]
    columns = {
        "cell": np.arange(len(cells), dtype=np.int32),
        **{
            name: np.array([int(digits, 16) for digits in column], np.uint64)
            for name, column in (("print", [t.rows[:16] for t in totals]), ("grid", [t.grid for t in totals]))
        },
        "sites": np.array([" ".join(t.sites) for t in totals], object),
        "mean": np.array([np.nan if t.sqnr_db is None else t.sqnr_db for t in totals]),
        **{n: np.array([getattr(t, n) for t in totals], np.int64) for n in ("places", "finite", "unknown")},
    }
    database.register("recorded", columns)
    replaced = "split(sites, ' ') AS sites, nullif(mean, 'NaN'::DOUBLE) AS mean"
    database.execute(f"CREATE TABLE totals AS SELECT * REPLACE ({replaced}) FROM recorded")


def literal(cell: Cell, name: str) -> str:
    """A path that names this very file: DuckDB reads * ? [ in one as a pattern, even in a list."""
    path = f"{cell.path}/{name}"
    return PATTERN.sub(lambda match: f"[{match[0]}]", path)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
