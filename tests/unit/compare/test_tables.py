"""The seed's tables against pandas on the same files; every output format; the command line."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from synthetic import jackknife, mamba, write

from sweep.compare import Comparison, load
from sweep.compare.answer import Answer, answer
from sweep.compare.render import html
from sweep.compare.render.writers import FORMATS
from sweep.compare.tables.catalogue import tables
from sweep.compare.tables.table import Column, Table, naming
from sweep.quantization.sites import quantized
from tests.unit.compare.conftest import Done

Run = Callable[..., Done]


@pytest.fixture(scope="module")
def found(runs: Comparison) -> Answer:
    return answer(runs)


def named(a: Answer, name: str, title: str = "") -> Table:
    return next(t for t in tables(a) if t.name == name and title in t.caption + t.title)


def test_scale_by_layer_and_alpha(found: Answer) -> None:
    table = named(found, "alpha", "percentile · int8 · tensor").frame()
    theirs = found.runs.scales().query(
        "site == 'x_conv_out' and method == 'percentile' and format == 'int8' and granularity == 'tensor'"
    )
    pivot = theirs.pivot(index="layer", columns="alpha", values="scale")
    for alpha in (0.99, 0.9995, 0.9999):
        assert table[f"{alpha}"].tolist() == pivot[alpha].tolist()
    for alpha in (0.99, 0.9999):
        assert table[f"Δ {alpha}"].tolist() == pytest.approx((pivot[alpha] / pivot[0.9995] - 1).tolist())


def test_minmax_against_percentile(found: Answer) -> None:
    table = named(found, "minmax", "percentile 0.9995").frame()
    rows = found.runs.scales().query("site == 'x_conv_out' and format == 'int8' and granularity == 'tensor'")
    small = rows[rows.method == "minmax"].drop_duplicates("layer").set_index("layer").sort_index()
    large = rows[(rows.method == "percentile") & (rows.alpha == 0.9995)].set_index("layer").sort_index()
    assert table["larger"].tolist() == pytest.approx((small.scale / large.scale - 1).tolist())
    assert table["gain dB"].tolist() == pytest.approx((large.sqnr_db - small.sqnr_db).tolist())
    assert table["clipped"].tolist() == pytest.approx(large.clip_fraction.tolist())


def test_ratio_and_gain(found: Answer) -> None:
    table = named(found, "ratio").frame()
    rows = found.runs.scales().query("site == 'x_conv_out' and format == 'int8' and granularity == 'tensor'")
    mine = rows[rows.alpha == 0.9995].sort_values("layer")
    assert table["ratio"].tolist() == pytest.approx(mine.ratio.tolist())
    assert table["SiLU gain"].tolist() == pytest.approx(mine.silu_gain.tolist())


def test_structure_names_shape_and_axes(found: Answer) -> None:
    table = named(found, "structure")
    frame = table.frame()
    grouped = frame[(frame.granularity == "group2x2") & (frame.site == "x_conv_out")].iloc[0]
    assert grouped["shape"] == "(1, 2, 2)"
    assert grouped["scales per layer"] == 4
    rows = found.runs.scales().query("granularity == 'group2x2' and site == 'x_conv_out'")
    assert (grouped["min"], grouped["max"]) == (rows.scale.min(), rows.scale.max())
    assert frame[frame.granularity == "tensor"]["shape"].unique().tolist() == ["()"]
    assert "per group, not per channel" in table.caption


def test_the_asked_for_metric(runs: Comparison) -> None:
    table = named(answer(runs, metric="clip_fraction"), "layers").frame()
    rows = runs.scales().query("site == 'x_conv_out'").groupby(["layer", "label"]).clip_fraction.mean().unstack()
    assert table[runs.labels[2]].tolist() == pytest.approx(rows[runs.labels[2]].tolist())


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        ("scale", 0.0074, "0.007400"), ("change", -0.0005, "−0.05%"), ("change", 0.0, "0"), ("gain", 1.234, "+1.23"),
        ("db", float("nan"), "–"), ("db", float("inf"), "∞"), ("count", 12345, "12,345"), ("text", "<b>", "<b>"),
        ("gain", 0.001, "<0.01"), ("gain", -0.001, ">−0.01"), ("change", 1e-6, "<0.01%"), ("p", 1e-9, "1.0e-09"),
        ("scale", None, "–"),
    ],
)  # fmt: skip
def test_how_values_are_shown(kind: str, value: float | None, shown: str) -> None:
    """A small effect never reads as none, and none never as a small effect."""
    assert Column("x", kind).show(value) == shown


def test_csv_is_raw_and_complete(found: Answer) -> None:
    table = named(found, "alpha", "percentile · int8 · tensor")
    back = pd.read_csv(io.StringIO(FORMATS["csv"](found, [table])))
    pd.testing.assert_frame_equal(back, table.frame(), check_dtype=False)


def test_json_is_strict(found: Answer) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    data = json.loads(FORMATS["json"](found, tables(found)), parse_constant=refuse)
    assert {v["verdict"] for v in data["verdicts"]} >= {"dead knob", "matters"}
    assert len(data["problems"]) == 4
    assert data["tables"]["cells"][0]["rows"][0]["model"] == "tiny"


def test_warnings_are_in_every_format(tmp_path: Path) -> None:
    for i in range(2):
        world = mamba(layers=1, size=80, tokens=f"{i}" * 64, model="evil_&_model|`", weights="random")
        write(tmp_path / str(i), world)
    a = answer(load(tmp_path))
    for name, writer in FORMATS.items():
        text = writer(a, tables(a))
        assert "2 different token sets" in text, name
        assert "random weights" in text, name
    latex = FORMATS["latex"](a, tables(a))
    assert r"evil\_\&\_model" in latex
    assert not re.search(r"(?<!\\)[&_](?=model)", latex.split("% warning")[-1].split("\n", 1)[1])
    assert "evil\\_&\\_model\\|\\`" in FORMATS["markdown"](a, tables(a))


def test_command_line(compare: Run, demo: Path, tmp_path: Path) -> None:
    done = compare(str(demo), "--html", str(tmp_path / "a.html"))
    assert done.code == 0, done.err
    for words in (
        "7 cells",
        "not one bit",
        "matters:",
        "1 failed",
        "2 unfinished",
        "1 damaged",
        "not measured: KL and perplexity",
    ):
        assert words in done.out
    assert "1 damaged" in done.out
    assert "SiLU" not in done.out  # nobody asked
    assert "SiLU never expands" in compare(str(demo), "--no-html", "--explain").out
    assert "CUDA out of memory" in compare(str(demo), "--table", "problems").out
    assert (tmp_path / "a.html").stat().st_size < 6e6
    assert compare(str(demo), "--format", "csv", "--table", "ALPHA").out.startswith("title,layer,")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no such directory"),
        (["{demo}", "--model", "8b"], "model=8b"),
        (["{demo}", "--metric", "beauty"], "sqnr_db"),
        (["{demo}", "--table", "chairs", "--format", "csv"], "there are: verdicts"),
        (["{demo}", "--baseline", "alpha=7"], "baseline=alpha=7"),
        (["{demo}", "--html", "/proc/none/x.html"], "cannot be written"),
    ],
)
def test_user_errors_are_one_line(compare: Run, demo: Path, arguments: list[str], words: str) -> None:
    done = compare(*(a.format(demo=demo) for a in arguments))
    assert done.code == 2
    assert re.fullmatch(r"error: .*\n", done.err)
    assert words in done.err


def test_a_report_replaces_reports_only(compare: Run, tmp_path: Path) -> None:
    write(tmp_path / "grid" / "0", mamba(layers=1, size=40))
    report, grid = tmp_path / "page.html", str(tmp_path / "grid")
    report.touch()  # as mktemp leaves it
    for _ in range(2):
        assert compare(grid, "--html", str(report), "--table", "cells").code == 0
    assert report.stat().st_size > 1e5
    for theirs in (tmp_path / "thesis.html", tmp_path / "grid" / "compare.html"):
        theirs.write_text("<html><title>Scales of dragons</title>")
    for arguments in (("--html", str(tmp_path / "thesis.html")), ()):
        done = compare(grid, *arguments)
        assert done.code == 2
        assert "is no report and would be overwritten" in done.err
    for theirs in (tmp_path / "thesis.html", tmp_path / "grid" / "compare.html"):
        assert theirs.read_text() == "<html><title>Scales of dragons</title>"


def test_settings_and_formats(tmp_path: Path) -> None:
    world = mamba(layers=2, size=60)
    cells = {
        (method, format): write(tmp_path / "s" / f"{method}-{format}", world, method=method, format=format)
        for method in ("minmax", "percentile")
        for format in ("int8", "int4")
    }
    table = named(answer(load(tmp_path / "s")), "formats").frame().set_index("setting")
    for (method, format), path in cells.items():
        rows = pd.read_parquet(path / "scales.parquet")
        expected = rows[~rows.site.str.endswith("_pre")].sqnr_db.mean()
        setting = "minmax" if method == "minmax" else "percentile 0.9995"
        assert table.loc[setting, format] == pytest.approx(expected)


def test_one_pairing_of_values_and_errors_serves_paper_and_page() -> None:
    """A column that holds nothing goes with its errors; errors that hold nothing go alone; a text is no number."""
    nan = float("nan")
    table = Table.of(
        "t", "T", "", "name | a:nats | ± a:nats | b:nats | ± b:nats | c:nats | ± c:nats | d:nats",
        [("x", 0.5, 0.1, None, 0.2, 1.0, None, None), ("y", nan, None, nan, 0.2, None, nan, "")],
    )  # fmt: skip
    assert table.pairs() == [(0, None), (1, 2), (5, None)]
    assert table.merged() == (["name", "a", "c"], [["x", "0.5 ± 0.1", "1"], ["y", "–", "–"]], [False, True, True])
    page = html.table(table)
    assert [name for name, *_ in page["heads"]] == ["name", "a", "c"]
    assert [name for *_, name in page["heads"]] == ["", "± a", ""]
    assert [[cell.text for cell in row] for row in page["rows"]] == table.merged()[1]
    assert [cell.error for cell in page["rows"][0]] == ["", "0.1", ""]
    assert Table.of("t", "T", "", "a | ± a | b", [(None, 1.0, "")]).pairs() == [(0, 1), (2, None)]


@pytest.mark.parametrize(
    ("heads", "rows", "right", "count"),
    [
        (["context", "rank", "setting"], [["a", "1", "x"]], [False, True, False], 3),
        (["context", "layer", "dB"], [["a", "0", "1"]], [False, True, True], 2),
        (["knob", "context", "dB"], [["a", "x", "1"]], [False, False, True], 2),
        (["layer", "scale"], [["0", "1"]], [True, True], 1),
        (["a"], [["x"]], [True], 1),
        (
            ["model", "format", "site", "n"],
            [["a", "f", "x", "1"], ["a", "f", "y", "1"]],
            [False, False, False, True],
            3,
        ),
        (
            ["model", "format", "site", "n"],
            [["a", "f", "x", "1"], ["a", "g", "x", "1"]],
            [False, False, False, True],
            2,
        ),
        (
            ["model", "format", "site", "n"],
            [["a", "f", "x", "1"], ["a", "f", "x", "2"]],
            [False, False, False, True],
            2,
        ),
    ],
)
def test_the_columns_that_name_a_row(heads: list[str], rows: list[list[str]], right: list[bool], count: int) -> None:
    assert naming(heads, rows, right) == count


def test_the_best_setting_of_a_layer_has_its_errors(found: Answer) -> None:
    table = named(found, "choices").frame()
    assert (table["± SQNR"] > 0).all()
    one = found.advice[0]
    row = table[table.context == one.context].iloc[0]
    (group,) = (g for g in found.ranking if g.context == one.context)
    at = {r.setting: found.runs.listed[r.cell].path for r in group.rows}

    def by_fold(setting: str) -> pd.Series:
        left = pd.read_parquet(at[setting] / "replicates.parquet")
        left = left[(left.layer == row.layer) & left.site.isin(quantized())]
        return left.groupby("fold").sqnr_db.mean()

    mine, its = by_fold(row["best setting"]), by_fold(one.best.setting)
    assert row["± SQNR"] == pytest.approx(jackknife(mine.to_numpy()))
    assert row["± loss"] == pytest.approx(jackknife((mine - its).to_numpy()))
