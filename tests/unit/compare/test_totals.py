"""Thousands of cells: totals in their records rank them, and only the rows that an answer shows are read."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import mamba, write

from sweep.compare import load
from sweep.compare.analysis.differences import evidence
from sweep.compare.analysis.mean_sqnr import shared_mean
from sweep.compare.analysis.per_site import points, shared_places
from sweep.compare.answer import answer
from sweep.compare.charts import charts
from sweep.compare.query import comparison
from sweep.compare.render.conclusions import spoken
from sweep.compare.tables.catalogue import tables
from sweep.core.errors import UsageError
from sweep.runs.totals import Totals

ALPHAS = (0.9, 0.99, 0.999, 0.9995)


def with_totals(path: Path) -> Path:
    """The cell with what the harness writes into its record, too."""
    table = path / "scales.parquet"
    totals = Totals.of(pq.read_table(table), table.stat().st_size)
    assert totals
    record = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(record | {"totals": totals.to_dict()}))
    return path


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Alphas and minmax in two formats, one of them twice."""
    root, world = tmp_path_factory.mktemp("many"), mamba(layers=2, size=300)
    for format in ("int8", "int4"):
        for alpha in ALPHAS:
            write(root / f"{format}-{alpha}", world, alpha=alpha, format=format)
        write(root / f"{format}-minmax", world, method="minmax", alpha=None, format=format)
    write(root / "again", world, alpha=0.99)
    for cell in root.iterdir():
        with_totals(cell)
    return root


@pytest.fixture
def huge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three cells are many."""
    monkeypatch.setattr(comparison, "FEW", 2)


def test_the_same_is_said_of_many_cells_as_of_few(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = load(many)
    assert not few.unopened
    monkeypatch.setattr(comparison, "FEW", 2)
    huge = load(many)
    assert len(huge.unopened) == len(few.listed) == 11
    assert huge.sites == few.sites
    ranked = shared_mean(huge, range(11))
    assert len(huge.unopened) == 11  # what ranks them looks at no row
    assert ranked == pytest.approx(shared_mean(few, range(11)), rel=1e-14)
    assert spoken(answer(huge)) == spoken(answer(few))
    both = [{t.name: t.frame() for t in tables(answer(runs))} for runs in (few, huge)]
    assert both[0].keys() == both[1].keys()
    for name, table in both[0].items():
        pd.testing.assert_frame_equal(table, both[1][name], rtol=1e-12)


def test_totals_are_those_of_the_rows(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query = "SELECT cell, mean, places, finite, unknown, sites FROM totals ORDER BY cell"
    few = load(many).sql(query)
    monkeypatch.setattr(comparison, "FEW", 2)
    for one, other in zip(few, load(many).sql(query), strict=True):
        assert other[1] == pytest.approx(one[1], rel=1e-14)
        assert other[2:] == one[2:]


@pytest.mark.usefixtures("huge")
def test_a_query_finds_every_row_that_it_asks_for(many: Path) -> None:
    runs = load(many)
    assert runs.sql("SELECT count(*) FROM cells") == [(11,)]
    assert len(runs.unopened) == 11
    rows = runs.sql("SELECT cell, count(*) FROM points WHERE cell IN (3, 4) GROUP BY cell", cells=[3, 4])
    assert sorted(rows) == [(3, 2 * 11), (4, 2 * 11)]
    assert sorted(runs.unopened) == [n for n in range(11) if n not in (3, 4)]
    assert runs.frame("SELECT count(*) AS n FROM Deployed").n.tolist() == [11 * 2 * 8]
    assert not runs.unopened
    assert len(runs.scales()) == 11 * 2 * 11


@pytest.mark.usefixtures("huge")
def test_places_are_read_of_the_cells_asked_for(many: Path) -> None:
    runs = load(many)
    assert sorted(points(runs, [4, 3, 4])) == [3, 4]
    assert len(runs.unopened) == 9
    numbers, codes, sqnr = shared_places({}, [0, 1], runs.sites)
    assert (numbers, codes.tolist(), sqnr.shape) == ([], [], (0, 0))


@pytest.mark.usefixtures("huge")
def test_another_table_than_the_recorded_one_is_read(tmp_path: Path) -> None:
    """Its size tells, and then every table is, since fingerprints of two kinds are not to be compared."""
    cells = [with_totals(write(tmp_path / str(alpha), mamba(layers=1, size=60), alpha=alpha)) for alpha in ALPHAS]
    assert load(tmp_path).unopened
    write(tmp_path / "new", mamba(layers=2, size=60), alpha=0.99)
    (tmp_path / "new" / "scales.parquet").replace(cells[1] / "scales.parquet")
    (tmp_path / "new" / "run.json").unlink()
    runs = load(*cells)
    assert not runs.unopened
    assert runs.sql("SELECT count(*) FROM rows WHERE cell = 1") == [(22,)]


@pytest.mark.usefixtures("huge")
def test_filtered_rows_have_totals_of_their_own(many: Path) -> None:
    runs = load(many, site="x_conv_out", layer=1)
    assert not runs.unopened
    assert runs.sql("SELECT DISTINCT places, sites FROM totals") == [(1, ["x_conv_out"])]
    assert load(many, format="int4").unopened


def damaged(path: Path, keeping: int) -> None:
    """The table loses its middle and keeps its size."""
    whole = path.read_bytes()
    path.write_bytes(whole[:keeping] + bytes(len(whole) - 2 * keeping) + whole[-keeping:])


@pytest.mark.usefixtures("huge")
def test_damage_that_keeps_the_size_is_told_once_it_is_read(tmp_path: Path) -> None:
    world = mamba(layers=2, size=60)
    cells = [with_totals(write(tmp_path / str(alpha), world, alpha=alpha)) for alpha in ALPHAS]
    damaged(cells[2] / "scales.parquet", 8)  # its ends are whole
    runs = load(tmp_path)
    assert not runs.problems
    assert [len(t.rows) for t in tables(answer(runs)) if t.name == "choices"] == [2]
    (problem,) = runs.problems
    assert (problem.path, problem.kind) == (cells[2], "damaged")
    assert "scales.parquet: " in problem.reason
    assert sorted(runs.sql("SELECT DISTINCT cell FROM rows")) == [(0,), (1,), (3,)]
    (one,) = evidence(runs, [(0, 2)], [True])
    assert (len(one.rows.site), len(one.means.site), np.isnan(one.overall).all()) == (0, 0, True)


@pytest.mark.usefixtures("huge")
def test_the_first_table_may_be_the_damaged_one(tmp_path: Path) -> None:
    cells = [with_totals(write(tmp_path / str(alpha), mamba(layers=1, size=60), alpha=alpha)) for alpha in ALPHAS]
    damaged(cells[0] / "scales.parquet", 4)
    runs = load(tmp_path)
    assert [problem.path for problem in runs.problems] == [cells[0]]
    assert len(runs.listed) == 3
    assert answer(runs).ranking[0].rows


@pytest.mark.usefixtures("huge")
def test_totals_of_another_version_are_not_looked_at(tmp_path: Path) -> None:
    """The cell is sound: its table tells."""
    cells = [with_totals(write(tmp_path / str(alpha), mamba(layers=1, size=60), alpha=alpha)) for alpha in ALPHAS]
    record = json.loads((cells[0] / "run.json").read_text())
    fewer = {name: value for name, value in record["totals"].items() if name != "grid"}
    for other in (fewer, record["totals"] | {"new": 1}):
        (cells[0] / "run.json").write_text(json.dumps(record | {"totals": other}))
        runs = load(tmp_path)
        assert (runs.problems, len(runs.listed), runs.unopened) == ([], 4, set())


SCHEMA = pa.schema(
    [
        ("layer", pa.int32()),
        ("site", pa.string()),
        *[(name, pa.int32()) for name in ("ssd_group", "head_group", "dim_group")],
        *[(name, pa.float64()) for name in ("scale", "sqnr_db", "clip_fraction")],
        ("n", pa.int64()),
    ]
)
ROWS = [
    {"layer": 0, "site": "x_conv_out", "scale": 1.0, "sqnr_db": 30.0, "clip_fraction": 0.25, "n": 100},
    {"layer": 0, "site": "x_conv_pre", "scale": 1.0, "sqnr_db": 99.0, "clip_fraction": 1.0, "n": 100},
    {"layer": 1, "site": "x_conv_out", "scale": 1.0, "sqnr_db": 33.0, "clip_fraction": 0.5, "n": 300},
    {"layer": 2, "site": "x_conv_out", "scale": 1.0, "sqnr_db": math.inf, "clip_fraction": None, "n": 100},
    {"layer": 3, "site": "x_conv_out", "scale": 1.0, "sqnr_db": None, "clip_fraction": 0.0, "n": 100},
    {"layer": 4, "site": "x_conv_out", "scale": 0.0, "sqnr_db": None, "clip_fraction": 0.0, "n": 0},
]


def of(rows: list[dict[str, object]]) -> Totals | None:
    return Totals.of(pa.Table.from_pylist(rows, SCHEMA), 7)


def test_totals_by_hand() -> None:
    """Means over the two finite places; of the others, one is lossless, one of unknown SQNR, and one all zeros. Clipped
    are 25 of 100, 150 of 300 and 0 of 100."""
    totals = of(ROWS)
    assert totals
    assert (totals.size, totals.sites) == (7, ("x_conv_out", "x_conv_pre"))
    assert (totals.places, totals.finite, totals.unknown) == (5, 2, 1)
    assert (totals.sqnr_db, totals.clip_fraction) == (31.5, 0.35)
    assert Totals.from_dict(json.loads(json.dumps(totals.to_dict()))) == totals
    others = totals.to_dict() | {"of a later version": 1}
    assert Totals.from_dict(others) is None
    assert of(ROWS[::-1]) == totals
    nothing = of(ROWS[1:2])
    assert nothing
    assert (nothing.places, nothing.sqnr_db, nothing.clip_fraction) == (0, None, None)
    assert of([ROWS[0] | {"head_group": 0}]) is None


@pytest.mark.parametrize(
    "change", [{"scale": math.nextafter(1, 2)}, {"sqnr_db": 29.0}, {"layer": 7}, {"site": "B_conv_out"}]
)
def test_a_fingerprint_is_of_every_bit(change: dict[str, object]) -> None:
    one, other = of(ROWS), of([ROWS[0] | change, *ROWS[1:]])
    assert one
    assert other
    assert one.rows != other.rows
    assert (one.grid != other.grid) is ("layer" in change or "site" in change)


def the_same_is_said_as_of_few(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = []
    for most in (500, 2):
        monkeypatch.setattr(comparison, "FEW", most)
        runs = load(root)
        answered = answer(runs)
        every = tables(answered)
        assert len(answered.runs.problems) == 1
        assert len(runs.scales()) == len(answered.runs.listed) * 22
        both.append((spoken(answered), [t.shown() for t in every if t.name != "problems"]))
        assert charts(answered)
    assert both[0] == both[1]


@pytest.mark.parametrize("bad", ["0.9995", "0.9", "0.999"])
def test_where_damage_shows_late_all_is_said_anew(bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the baseline of alpha, from which other tables are made too, as of others."""
    world = mamba(layers=2, size=60)
    for alpha in ALPHAS:
        with_totals(write(tmp_path / str(alpha), world, alpha=alpha))
    with_totals(write(tmp_path / "minmax", world, method="minmax", alpha=None))
    damaged(tmp_path / bad / "scales.parquet", 8)
    the_same_is_said_as_of_few(tmp_path, monkeypatch)


def test_a_torn_table_beside_the_scales_sets_its_cell_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for alpha in ALPHAS:
        with_totals(write(tmp_path / str(alpha), mamba(layers=2, size=60), alpha=alpha))
    torn = tmp_path / "0.99" / "replicates.parquet"
    torn.write_bytes(torn.read_bytes()[:-20])
    the_same_is_said_as_of_few(tmp_path, monkeypatch)


@pytest.mark.usefixtures("huge")
def test_of_cells_that_are_all_damaged_nothing_is_said(tmp_path: Path) -> None:
    cells = [with_totals(write(tmp_path / str(alpha), mamba(layers=1, size=60), alpha=alpha)) for alpha in ALPHAS]
    for cell in cells:
        torn = cell / "replicates.parquet"
        torn.write_bytes(torn.read_bytes()[:-20])
    with pytest.raises(UsageError, match="no cell can be read; the first"):
        answer(load(tmp_path))


@pytest.mark.usefixtures("huge")
def test_a_path_may_be_called_like_a_table(many: Path, tmp_path: Path) -> None:
    """That it is queried asks for no other cell's rows."""
    shutil.copytree(many, tmp_path / "rows")
    runs = load(tmp_path / "rows")
    assert runs.sql(f"SELECT count(*) FROM {runs.source('replicates.parquet', [3])}") == [(2 * 11 * 8,)]
    assert sorted(runs.unopened) == [n for n in range(11) if n != 3]
