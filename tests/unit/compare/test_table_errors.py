"""The errors in tables by layer, of SiLU and of shapes, against pandas on the replicates; and who is left out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import jackknife, mamba, write

from sweep.compare import Comparison, load
from sweep.compare.analysis.layer_choice import choices
from sweep.compare.analysis.place_errors import difference_error
from sweep.compare.analysis.silu_gain import silu
from sweep.compare.answer import Answer, answer
from sweep.compare.render.take import command
from sweep.compare.render.writers import FORMATS
from sweep.compare.tables.catalogue import tables
from sweep.compare.tables.layers import alpha_table, layer_table
from sweep.compare.tables.structure import structure_table
from sweep.compare.tables.table import Column, Table
from tests.handmade import cell

SITE = "x_conv_out"


@pytest.fixture(scope="module")
def found(runs: Comparison) -> Answer:
    return answer(runs)


def named(a: Answer, name: str, title: str = "") -> pd.DataFrame:
    return next(t for t in tables(a) if t.name == name and title in t.caption + t.title).frame()


def number(runs: Comparison, method: str, alpha: float | None = None, format: str = "int8") -> int:
    return next(
        n
        for n, c in enumerate(runs.listed)
        if (c.method, c.alpha, c.format, c.granularity) == (method, alpha, format, "tensor")
    )


def folds(runs: Comparison, of: int, column: str, site: str = SITE) -> np.ndarray:
    """[layers, folds] of a cell without groups, as its file has them."""
    rows = pd.read_parquet(runs.listed[of].path / "replicates.parquet")
    return rows[rows.site == site].pivot(index="layer", columns="fold", values=column).to_numpy()


def errors(each: np.ndarray) -> list[float]:
    told = [jackknife(row) for row in each]
    assert min(told) > 0
    return told


def test_scales_and_their_differences(found: Answer) -> None:
    table = named(found, "alpha", "percentile · int8 · tensor")
    base = folds(found.runs, number(found.runs, "percentile", 0.9995), "scale")
    for alpha in (0.99, 0.9999):
        here = folds(found.runs, number(found.runs, "percentile", alpha), "scale")
        assert table[f"± {alpha}"].tolist() == pytest.approx(errors(here))
        ratio = table[f"{alpha}"] / table["0.9995"]
        assert table[f"± Δ {alpha}"].tolist() == pytest.approx((ratio * errors(np.log(here / base))).tolist())


def test_minmax_against_a_percentile(found: Answer) -> None:
    runs, table = found.runs, named(found, "minmax", "percentile 0.9995")
    cells = number(runs, "minmax"), number(runs, "percentile", 0.9995)
    (s0, s1), (q0, q1) = ([folds(runs, n, column) for n in cells] for column in ("scale", "sqnr_db"))
    assert table["± MinMax scale"].tolist() == pytest.approx(errors(s0))
    assert table["± larger"].tolist() == pytest.approx(((1 + table["larger"]) * errors(np.log(s0 / s1))).tolist())
    assert table["± MinMax dB"].tolist() == pytest.approx(errors(q0))
    assert table["± percentile 0.9995 dB"].tolist() == pytest.approx(errors(q1))
    assert table["± gain dB"].tolist() == pytest.approx(errors(q1 - q0))


def test_ratio_and_gain(found: Answer) -> None:
    table, mine = named(found, "ratio"), number(found.runs, "percentile", 0.9995)
    assert table["± ratio"].tolist() == pytest.approx(errors(folds(found.runs, mine, "ratio")))
    assert table["± SiLU gain"].tolist() == pytest.approx(errors(folds(found.runs, mine, "silu_gain")))


def test_a_metric_by_layer(runs: Comparison) -> None:
    mine = number(runs, "percentile", 0.99)
    by_layer = layer_table(runs, "sqnr_db", SITE, [mine])
    assert by_layer.frame().iloc[:, 2].tolist() == pytest.approx(errors(folds(runs, mine, "sqnr_db")))
    assert "tell no error" not in by_layer.caption
    unknown = layer_table(runs, "clip_fraction", SITE, [mine])
    assert unknown.frame().iloc[:, 2].isna().all()
    assert "tell no error" in unknown.caption


def test_groups_are_pooled_as_everywhere(runs: Comparison) -> None:
    grouped = next(n for n, c in enumerate(runs.listed) if c.granularity != "tensor")
    table = layer_table(runs, "sqnr_db", SITE, [grouped]).frame()
    points = runs.sql("SELECT layer, sqnr_db FROM points WHERE cell = ? AND site = ? ORDER BY layer", [grouped, SITE])
    assert table.iloc[:, 1].tolist() == [db for _, db in points]
    assert (table.iloc[:, 2] > 0).all()


def test_shapes(found: Answer) -> None:
    table = named(found, "structure")
    mine = table[(table.granularity == "group2x2") & (table.site == SITE)].iloc[0]
    grouped = next(c for c in found.runs.listed if c.granularity != "tensor")
    rows = pd.read_parquet(grouped.path / "scales.parquet").query("site == @SITE")
    least, most = (rows.sort_values("scale").iloc[i] for i in (0, -1))
    assert (mine["± min"], mine["± max"]) == (least.scale_se, most.scale_se)
    spread = rows.groupby("layer").scale.agg(lambda s: s.max() / s.min())
    left = pd.read_parquet(grouped.path / "replicates.parquet").query("site == @SITE and layer == @spread.idxmax()")
    each = left.groupby("fold").scale.agg(lambda s: s.max() / s.min())
    assert mine["spread"] == pytest.approx(spread.max())
    assert mine["± spread"] == pytest.approx(jackknife(each.to_numpy()))
    assert np.isnan(table[table.granularity == "tensor"].iloc[0]["± spread"])  # one scale has none


def test_what_silu_does(found: Answer) -> None:
    runs = found.runs
    x = next(s for s in found.silu if s.site == SITE)
    cells = [n for n, c in enumerate(runs.listed) if c.granularity == "tensor"]
    frames = [pd.read_parquet(runs.listed[n].path / "scales.parquet").assign(cell=n) for n in cells]
    rows = pd.concat(frames).query("site == @SITE")
    for end, gain, ratio in (
        ("min", (x.gain_low, x.gain_low_se), (x.ratio_low, x.ratio_low_se)),
        ("max", (x.gain_high, x.gain_high_se), (x.ratio_high, x.ratio_high_se)),
    ):
        for column, (value, error) in (("silu_gain", gain), ("ratio", ratio)):
            assert value == rows[column].agg(end)
            tied = rows[rows[column] == value]  # of them the one that errs most, whatever the order of the rows
            told = [jackknife(folds(runs, row.cell, column)[row.layer]) for row in tied.itertuples()]
            assert error == pytest.approx(max(told))
    every = np.array([folds(runs, n, "silu_gain") for n in cells])
    assert x.gain_mean == pytest.approx(rows.silu_gain.mean())
    assert x.gain_mean_se == pytest.approx(jackknife(every.mean((0, 1))))
    shown = named(found, "silu").query("site == @SITE").iloc[0]
    assert (shown["± gain mean"], shown["± ratio max"]) == (x.gain_mean_se, x.ratio_high_se)


def test_errors_of_several_calibrations_are_no_smaller_than_told(tmp_path: Path) -> None:
    """They may share text: of a mean their errors add up at most, of a difference they are independent at most."""
    for seed in range(2):
        write(tmp_path / f"{seed}", mamba(layers=2, size=400, seed=seed, tokens=f"{seed}" * 64))
    runs = load(tmp_path)
    x = next(s for s in silu(runs) if s.site == SITE)
    halves = [jackknife(folds(runs, n, "silu_gain").mean(0)) / 2 for n in range(2)]
    assert x.gain_mean_se == pytest.approx(sum(halves))
    one, other = np.arange(4.0), np.array([1.0, 0.0, 2.0, 5.0])
    assert difference_error(one, other, paired=True) == pytest.approx(jackknife(other - one))
    assert difference_error(one, other, paired=False) == pytest.approx(math.hypot(jackknife(one), jackknife(other)))
    assert difference_error(one, other[:3], paired=True) == pytest.approx(
        math.hypot(jackknife(one), jackknife(other[:3]))
    )
    assert difference_error(one, None, paired=False) is None


def test_no_error_where_replicates_tell_none(tmp_path: Path) -> None:
    world = mamba(layers=2, size=400)
    for alpha in (0.99, 0.9995):
        write(tmp_path / f"{alpha}", world, alpha=alpha)
    (tmp_path / "0.99" / "replicates.parquet").unlink()
    old = tmp_path / "0.9995" / "replicates.parquet"  # of before it had these columns
    pq.write_table(pq.read_table(old).drop_columns(["silu_gain", "ratio"]), old)
    runs = load(tmp_path)
    x = next(s for s in silu(runs) if s.site == SITE)
    assert [x.gain_low_se, x.gain_mean_se, x.gain_high_se, x.ratio_low_se, x.ratio_high_se] == [None] * 5
    contrast = next(v.contrast for v in answer(runs).verdicts if v.contrast.knob == "alpha")
    table = alpha_table(runs, contrast, SITE).frame()
    assert table["± 0.99"].isna().all()
    assert table["± Δ 0.99"].isna().all()
    assert (table["± 0.9995"] > 0).all()


def test_some_cells_without_replicates_leave_the_mean_without_error(tmp_path: Path) -> None:
    world = mamba(layers=2, size=400)
    for alpha in (0.99, 0.9995):
        write(tmp_path / f"{alpha}", world, alpha=alpha)
    (tmp_path / "0.99" / "replicates.parquet").unlink()
    x = next(s for s in silu(load(tmp_path)) if s.site == SITE)
    assert x.gain_mean_se is None


@pytest.mark.parametrize(
    ("kind", "value", "error", "text"),
    [
        ("change", 0.01234, 0.002, "+1.2 ± 0.2%"), ("change", -0.0005, 0.00012, "−0.05 ± 0.01%"),
        ("change", 0.123, 0.03, "+12 ± 3%"), ("gain", 1.234, 0.04, "+1.23 ± 0.04"),
        ("error", 0.0004, 2e-9, "0.04% ± 2e-07%"), ("error", 0.0004, math.inf, "0.04%"),
        ("change", 0.0, 0.012, "0 ± 1%"), ("change", 2e-5, 3e-5, "+0.002 ± 0.003%"), ("gain", 0.0, 0.02, "0.00 ± 0.02"),
        ("gain", 0.002, 0.001, "+0.002 ± 0.001"), ("change", 0.0, 0.0, "0"), ("change", 0.01, None, "+1.00%"),
    ],
)  # fmt: skip
def test_values_with_errors(kind: str, value: float, error: float | None, text: str) -> None:
    assert Column("x", kind).show_with(value, error) == text


def test_cells_that_a_filter_leaves_nothing_of_are_named(tmp_path: Path) -> None:
    for name, layers in (("small", 1), ("large", 3)):
        places = {(layer, SITE): 30.0 for layer in range(layers)}
        cell(tmp_path / name, places, model=name)
        cell(tmp_path / f"{name}-minmax", places, model=name, method="minmax")
    runs = load(tmp_path, layer="1-2")
    assert [c.model for c in runs.listed] == ["large", "large"]
    assert "left out: 2 cells of small, which has nothing of layer=1,2" in runs.warnings
    assert not any("left out" in text for text in load(tmp_path, layer="0").warnings)


def test_the_share_of_clipped_values_is_of_those_where_it_is_known(tmp_path: Path) -> None:
    """As `totals` says it, so does what is looked up in the table."""
    places: dict[tuple[int, str], float | None] = {(0, SITE): 30.0, (1, SITE): 30.0}
    for alpha in (0.99, 0.9995):
        path = cell(tmp_path / f"{alpha}", places, alpha=alpha, clipped=0.25)
        rows = pq.read_table(path / "scales.parquet").to_pandas()
        rows.loc[rows.layer == 1, "clip_fraction"] = np.nan
        schema = pq.read_schema(path / "scales.parquet")
        pq.write_table(pa.Table.from_pandas(rows, schema, preserve_index=False), path / "scales.parquet")
    a = answer(load(tmp_path))
    assert [row.clipped for group in a.ranking for row in group.rows] == [0.25, 0.25]


def test_no_table_shows_a_column_of_errors_twice(found: Answer) -> None:
    for table in tables(found):
        names = [c.name for c in table.columns]
        assert len(names) == len(set(names)), table.name


def test_terminal_and_page_show_percentages_with_errors(found: Answer) -> None:
    table: Table = next(t for t in tables(found) if t.name == "minmax")
    heads, rows, _ = table.merged()
    assert all(" ± " in row[heads.index("larger")] and row[heads.index("larger")].endswith("%") for row in rows)


def test_the_same_cells_give_the_same_bytes(demo: Path) -> None:
    """Rows come in another order every time: no last digit of a sum may depend on it."""
    written = set()
    for _ in range(6):
        a = answer(load(demo))
        written.add(FORMATS["csv"](a, tables(a)))
    assert len(written) == 1


def test_an_unknown_ratio_is_no_extreme(tmp_path: Path) -> None:
    """Weights that are zero have no ratio; the gain of their row is known, and counts."""
    path = tmp_path / "cell"
    write(path, mamba(layers=3, size=400))
    whole = next(s for s in silu(load(tmp_path)) if s.site == SITE)
    file = path / "scales.parquet"
    rows = pq.read_table(file).to_pandas()
    known = rows[(rows.site == SITE) & (rows.layer > 0)]
    rows.loc[(rows.site == SITE) & (rows.layer == 0), "ratio"] = np.nan
    pq.write_table(pa.Table.from_pandas(rows, pq.read_schema(file), preserve_index=False), file)
    x = next(s for s in silu(load(tmp_path)) if s.site == SITE)
    assert (x.ratio_low, x.ratio_high) == (known.ratio.min(), known.ratio.max())
    assert x.ratio_high_se == pytest.approx(max(errors(folds(load(tmp_path), 0, "ratio")[1:])), rel=1)
    assert (x.rows, x.gain_low, x.gain_high_se) == (whole.rows, whole.gain_low, whole.gain_high_se)


def test_a_layer_of_zeros_hides_no_spread(tmp_path: Path) -> None:
    path = tmp_path / "cell"
    write(path, mamba(layers=3, size=400), grid=(2, 2))
    table = structure_table(load(tmp_path)).frame().query("site == @SITE").iloc[0]
    for name in ("scales", "replicates"):
        file = path / f"{name}.parquet"
        rows = pq.read_table(file).to_pandas()
        rows.loc[(rows.site == SITE) & (rows.layer == 0), "scale"] = 0.0
        pq.write_table(pa.Table.from_pandas(rows, pq.read_schema(file), preserve_index=False), file)
    dead = structure_table(load(tmp_path)).frame().query("site == @SITE").iloc[0]
    assert dead["min"] == 0
    left = pq.read_table(path / "scales.parquet").to_pandas().query("site == @SITE and layer > 0")
    spread = left.groupby("layer").scale.agg(lambda s: s.max() / s.min()).max()
    assert dead["spread"] == pytest.approx(spread)
    assert 0 < dead["± spread"] < np.inf
    assert table["spread"] >= dead["spread"]


def test_the_error_of_a_layers_best_is_of_the_places_that_its_sqnr_is_of(tmp_path: Path) -> None:
    """A place that one setting knows nothing of is left out of the mean, hence of its error, of all."""
    wobble = (0.1, -0.1, 0.05, 0.0, 0.0, -0.05, 0.2, -0.2)
    known: dict[tuple[int, str], float | None] = {(0, SITE): 30.0, (0, "in_proj_in"): 40.0}
    cell(tmp_path / "a", known, wobble, alpha=0.9995)
    cell(tmp_path / "b", {**known, (0, SITE): 20.0, (0, "in_proj_in"): math.inf}, wobble, alpha=0.99)
    file = tmp_path / "a" / "replicates.parquet"
    rows = pq.read_table(file).to_pandas()
    rows.loc[rows.site == "in_proj_in", "sqnr_db"] = 40.0  # does not err
    pq.write_table(pa.Table.from_pandas(rows, pq.read_schema(file), preserve_index=False), file)
    runs = load(tmp_path)
    (one,) = choices(runs, answer(runs).advice[0]).layers
    assert (one.sqnr_db, one.setting) == (30.0, "percentile 0.9995")
    assert one.sqnr_se == pytest.approx(jackknife(np.array(wobble)))


def test_models_that_a_filter_leaves_nothing_of_are_many(tmp_path: Path) -> None:
    for name, layers in (("one", 1), ("other", 1), ("large", 2)):
        cell(tmp_path / name, {(layer, SITE): 30.0 for layer in range(layers)}, model=name)
    assert "left out: 2 cells of one, other, which have nothing of layer=1" in load(tmp_path, layer="1").warnings


def test_calibrations_of_two_dtypes_have_rankings_and_tables_of_their_own(tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        world = mamba(layers=2, size=200, dtype=dtype)
        for method in ("minmax", "percentile"):
            write(tmp_path / dtype / method, world, method=method)
    a = answer(load(tmp_path))
    for group in a.ranking:
        (dtype,) = {a.runs.listed[row.cell].dtype for row in group.rows}
        assert dtype in group.context
        assert len(group.rows) == 2
    titles = [t.title for t in tables(a) if t.name == "minmax"]
    assert len(titles) == len(set(titles)) == 2


def test_a_command_says_nothing_twice(tmp_path: Path) -> None:
    """A plan adds what it settled, as the dtype that was asked for, to a cell's overrides."""
    path = cell(tmp_path / "0", {(0, SITE): 30.0})
    (path / ".hydra").mkdir()
    (path / ".hydra" / "overrides.yaml").write_text(
        "- alpha=0.9995\n- dtype=bfloat16\n- device=cpu\n- dtype=bfloat16\n"
    )
    assert command(load(tmp_path).listed[0]).endswith("alpha=0.9995 dtype=bfloat16 device=cpu")
