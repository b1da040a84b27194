"""Charts and figures: what they draw, what they say, and that a new one is one file."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import vl_convert
from synthetic import jackknife, mamba, write

import sweep.compare.charts as package
from sweep.compare import load
from sweep.compare.analysis.place_errors import errors
from sweep.compare.analysis.significance import freedom, quantile
from sweep.compare.answer import answer
from sweep.compare.charts import charts
from sweep.compare.facts import Answer
from sweep.compare.query.comparison import Comparison
from sweep.compare.render.pictures import COLUMNS, ONE, save, standalone
from sweep.compare.render.report import page
from sweep.compare.render.theme import by_method, series
from sweep.compare.tables.catalogue import tables
from tests.unit.compare.conftest import Done

ADDED = """
from sweep.compare.charts.base import Chart, rows


def chart(a):
    return Chart("added", "added", 0, "A chart from elsewhere", "It counts cells.",
                 {"data": rows(("cells",), [(len(a.runs.listed),)]), "height": 90, "mark": "bar",
                  "encoding": {"x": {"field": "cells", "type": "quantitative"}}})


CHARTS = (chart,)
"""


def rows_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    values: list[dict[str, Any]] = spec["data"]["values"]
    return values


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    """Two alphas and minmax in two formats, evaluated; layers of a sensitivity in one of them."""
    root = tmp_path_factory.mktemp("swept")
    world = mamba(layers=3, size=300)
    only = {"kl": 0.01, "kl_se": 0.001, "delta_perplexity": 0.2, "delta_perplexity_se": 0.1, "perplexity": 8.2}
    layers = [{"layer": i, "only": only, "all_but": only} for i in range(3)]
    for format, cost in (("int8", 0.01), ("int4", 0.5)):
        for i, (method, alpha) in enumerate((("percentile", 0.99), ("percentile", 0.9995), ("minmax", 0.99))):
            evaluation = {
                "perplexity": 9.0, "perplexity_se": 0.1, "kl": cost * (i + 1), "kl_se": cost / 10,
                "baseline": {"perplexity": 8.0}, "layers": layers, "sites": [], "tokens": {"sha256": "t", "samples": 8},
            }  # fmt: skip
            cell = root / "s" / f"{format}-{method}-{alpha}"
            write(cell, world, method=method, alpha=alpha, format=format, evaluation=evaluation)
    return answer(load(root / "s"))


def encodings(spec: Any, channel: str) -> list[dict[str, Any]]:
    """Every encoding of that channel, wherever it is in the specification."""
    if isinstance(spec, list):
        return [e for part in spec for e in encodings(part, channel)]
    if not isinstance(spec, dict):
        return []
    mine = [spec["encoding"][channel]] if channel in spec.get("encoding", {}) else []
    return mine + [e for key, part in spec.items() if key != "data" for e in encodings(part, channel)]


def test_a_setting_has_one_colour_in_all_charts(swept: Answer) -> None:
    s = series([swept.runs.listed[n] for n in swept.shown])
    (fill,) = encodings(charts(swept)["cost"].spec, "fill")
    scale = fill["scale"]
    assert set(scale["domain"]) == {"percentile 0.99", "percentile 0.9995", "minmax"}
    for setting, colour in zip(scale["domain"], scale["range"], strict=True):
        assert colour == f"var(--c{s.settings.index(setting)})"
    (colour,) = filter(None, encodings(charts(swept)["cost"].spec, "color"))  # points have none, but a fill
    assert colour["scale"] == {"domain": ["minmax", "percentile"], "range": ["var(--minmax)", "var(--percentile)"]}
    alone = [c for n in swept.shown if (c := swept.runs.listed[n]).alpha == 0.99]
    assert series(alone).palette[-1] == by_method()["percentile"]


def oklab(colour: str) -> np.ndarray[Any, Any]:
    """Björn Ottosson's perceptual coordinates of `#rrggbb`; two colours 0.1 apart are told apart in thin lines."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_cones = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
    to_lab = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    turned: np.ndarray[Any, Any] = np.array(to_lab) @ np.cbrt(np.array(to_cones) @ linear)
    return turned


def test_colours_are_told_apart_in_light_and_dark(swept: Answer) -> None:
    cell = swept.runs.listed[0]
    methods = [replace(cell, method=m, alpha=None) for m in ("minmax", "mse", "entropy", "loss", "recipe", "quamba")]
    for count in (1, 2, 3, 5):
        alphas = [replace(cell, method="percentile", alpha=1 - 10.0 ** -(i + 1)) for i in range(count)]
        for mode in (0, 1):
            colours = [oklab(pair[mode]) for pair in series([*methods, *alphas]).palette]
            assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(colours, 2)) > 0.1, (count, mode)


def test_titles_name_the_model_in_one_way(swept: Answer, grouped: Answer) -> None:
    for chart in [*charts(swept).values(), *charts(grouped).values()]:
        assert chart.title.endswith(", tiny"), chart.title


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    root = tmp_path_factory.mktemp("grouped")
    for method in ("minmax", "percentile"):
        write(root / "s" / method, mamba(layers=2, size=300), method=method, grid=(2, 2))
    return answer(load(root / "s"))


def test_nothing_shown_depends_on_the_order_in_which_rows_come(
    swept: Answer, grouped: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database returns rows of a query without ORDER BY as its threads come; backwards is one such order."""
    plain = Comparison.sql

    def backwards(self: Comparison, query: str, *more: Any) -> list[tuple[Any, ...]]:
        rows = plain(self, query, *more)
        return rows if re.search(r"ORDER BY[^)]*$", query) else rows[::-1]

    def shown(a: Answer) -> tuple[str, str]:
        specs = json.dumps({name: chart.spec for name, chart in charts(a).items()})
        return specs, json.dumps([table.__dict__ for table in tables(a)], default=str)

    for a in (swept, grouped):
        before = shown(a)
        with monkeypatch.context() as patch:
            patch.setattr(Comparison, "sql", backwards)
            assert shown(a) == before


def test_a_chart_is_one_file(swept: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "added_chart.py").write_text(ADDED)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    assert "added" in charts(swept)
    html = page(swept)
    assert 'id="chart-added"' in html
    assert "A chart from elsewhere" in html
    monkeypatch.setattr(package, "__path__", [str(tmp_path)])  # all others are drawn elsewhere
    assert save(swept, tmp_path / "plots") == 1
    assert (tmp_path / "plots" / "added.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "plots" / "added.txt").read_text() == "A chart from elsewhere. It counts cells.\n"


def test_cost_has_a_panel_per_format_a_band_and_a_line_for_what_has_no_alpha(swept: Answer) -> None:
    chart = charts(swept)["cost"]
    table = rows_of(chart.spec)
    assert chart.title == "What each setting costs: measured KL, tiny"
    assert chart.spec["facet"]["field"] == "format"
    assert {row["format"] for row in table} == {"int8", "int4"}
    assert [row["clipped"] for row in table if row["method"] == "minmax"] == [None, None]
    first = next(row for row in table if row["format"] == "int8" and row["alpha"] == 0.99)
    assert (first["cost"], first["low"], first["high"]) == pytest.approx((0.01, 0.008, 0.012))


def test_clips_are_drawn_and_not_scales_of_several_formats(swept: Answer) -> None:
    table = rows_of(charts(swept)["scales"].spec)
    at = [r for r in table if r["setting"] == "minmax" and r["site"] == "x_conv_out" and r["layer"] == 1]
    assert len({r["rest"] for r in at}) == 2
    assert at[0]["clip"] == pytest.approx(at[1]["clip"], rel=1e-4)
    assert max(r["scale"] for r in at) > 10 * min(r["scale"] for r in at)


def test_differences_name_baseline_and_model(swept: Answer, tmp_path: Path) -> None:
    several = charts(swept)["difference-scale"]
    assert "tiny" in several.title
    assert "percentile 0.99 − percentile 0.9995 · int8" in {row["row"] for row in rows_of(several.spec)}
    for alpha in (0.99, 0.9995):
        write(tmp_path / "s" / str(alpha), mamba(layers=2, size=60), alpha=alpha)
    one = charts(answer(load(tmp_path / "s")))["difference-sqnr"]
    assert one.title == "SQNR of each cell less percentile 0.9995, tiny"


def test_sensitivity_is_by_kl_first_with_bands(swept: Answer) -> None:
    chart = charts(swept)["sensitivity"]
    assert chart.selects["measure"][2].startswith("KL")
    assert {unit[:2] for unit in chart.selects["measure"][1]} == {"KL", "pe"}
    row = next(r for r in rows_of(chart.spec) if r["unit"].startswith("KL"))
    assert (row["low"], row["high"]) == pytest.approx((0.008, 0.012))


def test_what_the_sensitivity_chart_draws_is_a_table_too(swept: Answer) -> None:
    (table,) = (t.frame() for t in tables(swept) if t.name == "sensitivity")
    assert len(table) == 6 * 3
    first = table.iloc[0]
    assert first[["rank", "alone KL nats", "± alone KL", "all but Δ perplexity"]].tolist() == [1, 0.01, 0.001, 0.2]


def test_a_maximum_has_no_forecast(swept: Answer) -> None:
    chart = charts(swept)["samples"]
    forecast = {row["setting"] for row in rows_of(chart.spec) if row["kind"] == "forecast"}
    assert forecast == {"percentile 0.99", "percentile 0.9995"}
    assert "no forecast" in chart.caption
    ahead = [
        r for r in rows_of(chart.spec) if r["kind"] == "forecast" and r["layer"] == 0 and r["site"] == "x_conv_out"
    ]
    first, last = min(ahead, key=lambda r: r["samples"]), max(ahead, key=lambda r: r["samples"])
    assert last["samples"] == 4 * first["samples"]
    assert last["high"] == pytest.approx(first["high"] / 2, rel=1e-3)


def test_seeds_are_contexts_of_their_own(tmp_path: Path) -> None:
    """Two texts of one name and size: no line goes through the points of both."""
    for seed in "ab":
        for format, alpha in itertools.product(("int8", "int4"), (0.99, 0.9995)):
            place = tmp_path / f"{seed}{format}{alpha}"
            write(place, mamba(layers=2, size=60, tokens=seed * 64), alpha=alpha, format=format)
    drawn = charts(answer(load(tmp_path)))
    for name in ("cost", "methods-formats"):
        contexts = [row["context"] for row in rows_of(drawn[name].spec)]
        assert sorted(contexts.count(c) for c in set(contexts)) == [4, 4], name


def test_the_band_of_groups_is_that_of_their_mean(grouped: Answer) -> None:
    """As the tables have it, whose clip by layer is a mean over groups."""
    table = rows_of(charts(grouped)["scales"].spec)
    at = {(row["cell"], row["layer"]): row["error"] for row in table if row["site"] == "x_conv_out"}
    told = errors(grouped.runs, grouped.shown, "avg(scale)")
    known = sorted(error for (_, _, site), error in told.items() if site == "x_conv_out")
    assert sorted(at.values()) == pytest.approx(known, rel=0.05)  # of two digits
    row = next(row for row in table if row["error"])
    assert row["high"] / row["clip"] - 1 == pytest.approx(2 * row["error"] / row["scale"], rel=0.1)


def test_groups_have_errors(grouped: Answer) -> None:
    table = rows_of(charts(grouped)["groups"].spec)
    assert all(row["error"] > 0 for row in table)
    assert {row["heads"] for row in table} == {"not recorded"}


def test_positions_of_groups_are_read_off_the_grouping(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for method in ("minmax", "percentile"):
        cell = write(tmp_path / "s" / method, mamba(layers=1, size=300), method=method, grid=(2, 2))
        grouping = {
            "layer": 0, "ssd_groups": 1, "head_groups": 2, "dim_groups": 2, "channels": list(range(12)),
            "heads": [2, 0, 1], "head_ends": [1, 3], "dim_ends": [1, 4, 3, 4],
        }  # fmt: skip
        pq.write_table(pa.Table.from_pylist([grouping]), cell / "grouping.parquet")
    table = rows_of(charts(answer(load(tmp_path / "s")))["groups"].spec)
    places = {(r["head_group"], r["dim_group"]): (r["heads"], r["positions"]) for r in table}
    assert places == {
        (0, 0): ("2", "1 to 1 of 4"), (0, 1): ("2", "2 to 4 of 4"),
        (1, 0): ("0 1", "1 to 3 of 4"), (1, 1): ("0 1", "4 to 4 of 4"),
    }  # fmt: skip


def test_the_map_shows_quantized_sites_alone_in_their_order(swept: Answer) -> None:
    chart = charts(swept)["cost-map"]
    sites = chart.spec["encoding"]["y"]["sort"]
    assert sites[0] == "in_proj_in"
    assert sites[-1] == "out_proj_in"
    assert not [site for site in sites if site.endswith("_pre")]
    assert chart.opens


@pytest.mark.slow
def test_figures_are_files_that_fit_a_column_and_hold_no_title(
    compare: Callable[..., Done], demo: Path, tmp_path: Path
) -> None:
    done = compare(str(demo), "--no-html", "--plots", str(tmp_path))
    assert done.code == 0, done.err
    a = answer(load(demo))
    for name, chart in charts(a).items():
        assert all((tmp_path / f"{name}.{kind}").exists() for kind in ("svg", "png", "pdf", "txt")), name
        svg = (tmp_path / f"{name}.svg").read_text()
        assert "var(--" not in svg
        assert len(re.findall(r"aria-roledescription=\"[^\"]*mark\"|<path ", svg)) > 4, name
        spec = standalone(chart, a)
        assert "title" not in spec
        assert chart.title not in svg
        assert (tmp_path / f"{name}.txt").read_text().startswith(chart.title)
        json.dumps(spec, allow_nan=False)
    assert {"scales", "difference-scale", "difference-sqnr", "cost", "cost-map", "best-alpha"} <= charts(a).keys()
    assert {"methods-formats", "histogram", "gain", "samples", "groups"} <= charts(a).keys()
    for columns, inches in COLUMNS.items():
        place = tmp_path / ONE if columns == 1 else tmp_path
        assert len(list(place.glob("*.pdf"))) == len(charts(a))
        for file in place.glob("*.pdf"):
            width = float(re.search(rb"/MediaBox ?\[ ?0 0 ([\d.]+)", file.read_bytes())[1])  # type: ignore[index]
            assert 0.8 * 72 * inches < width <= 72 * inches + 1, file


def with_grouping(cell: Path, absmax: list[float] | None) -> None:
    """The grouping of three heads of four channels in two clusters of heads, two of positions, in one layer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    grouping = {
        "layer": 0, "ssd_groups": 1, "head_groups": 2, "dim_groups": 2, "heads": [2, 0, 1],
        "channels": [8, 9, 10, 11, 1, 0, 2, 3, 4, 5, 6, 7], "head_ends": [1, 3], "dim_ends": [1, 4, 3, 4],
    }  # fmt: skip
    more = {} if absmax is None else {"absmax": absmax}
    pq.write_table(pa.Table.from_pylist([grouping | more]), cell / "grouping.parquet")


def test_channels_and_heads_before_and_after_sorting(tmp_path: Path) -> None:
    maxima = [float(n) for n in range(1, 13)]
    for method in ("minmax", "percentile"):
        with_grouping(write(tmp_path / "s" / method, mamba(layers=1, size=300), method=method, grid=(2, 2)), maxima)
    a = answer(load(tmp_path / "s"))
    chart = charts(a)["channels"]
    table = [row for row in rows_of(chart.spec) if row["cell"] == "minmax"]

    def curve(kind: str, order: str, field: str = "absmax") -> list[float]:
        return [r[field] for r in table if (r["kind"], r["order"]) == (kind, order) and r["absmax"] is not None]

    assert curve("channels", "original order") == maxima
    assert curve("channels", "sorted and clustered") == [9, 10, 11, 12, 2, 1, 3, 4, 5, 6, 7, 8]
    assert curve("heads", "original order") == [4, 8, 12]
    assert curve("heads", "sorted and clustered") == [12, 4, 8]
    edges = {(r["kind"], r["order"], r["edge"]) for r in table if r["edge"] is not None}
    assert edges == {("channels", "sorted and clustered", 4), ("heads", "sorted and clustered", 1)}
    clips = dict(a.runs.sql(
        "SELECT (head_group, dim_group), clip FROM scales() WHERE cell = 0 AND site = 'x_conv_out'"
    ))  # fmt: skip
    expected = [clips[0, 0], *[clips[0, 1]] * 3, *([clips[1, 0]] * 3 + [clips[1, 1]]) * 2]
    digits = [float(f"{clip:.4g}") for clip in expected]
    assert curve("channels", "sorted and clustered", "clip") == digits
    assert curve("channels", "original order", "clip")[8:] == digits[:4]


def test_without_maxima_of_channels_there_is_no_such_chart(tmp_path: Path, grouped: Answer) -> None:
    """As older versions wrote it; and a filter of sites is none of the grouping."""
    for method in ("minmax", "percentile"):
        with_grouping(write(tmp_path / "s" / method, mamba(layers=1, size=300), method=method, grid=(2, 2)), None)
    drawn = charts(answer(load(tmp_path / "s", site="x_conv_out")))
    assert "groups" in drawn
    assert "channels" not in drawn
    assert "channels" not in charts(grouped)


def predicts(cell: Path, loss: float | None) -> None:
    """As run.json has it of a cell with gradients, or of one whose clips are read off maxima."""
    run = json.loads((cell / "run.json").read_text())
    run["loss"] = None if loss is None else {"loss": loss, "loss_se": loss / 10}
    (cell / "run.json").write_text(json.dumps(run))


@pytest.mark.parametrize("alphas", [(0.9995,), (0.99, 0.9995)])
def test_groups_read_off_maxima_have_no_prediction_and_say_so(tmp_path: Path, alphas: tuple[float, ...]) -> None:
    world = mamba(layers=1, size=300)
    for grid in (None, (2, 2)):
        for alpha in alphas:
            predicts(write(tmp_path / "s" / f"p{alpha}{grid}", world, alpha=alpha, grid=grid), 0.01 + alpha)
        predicts(write(tmp_path / "s" / f"m{grid}", world, method="minmax", grid=grid), None if grid else 0.05)
    a = answer(load(tmp_path / "s"))
    chart = charts(a)["cost"]
    assert "predicted loss" in chart.title
    (row,) = [row for row in rows_of(chart.spec) if row["cost"] is None]
    assert (row["method"], row["missing"]) == ("minmax", "no prediction")
    assert "maxima" in chart.caption
    assert "no prediction" in page(a)
    standalone(chart, a)


def test_mean_sqnr_of_groups_has_an_error(grouped: Answer) -> None:
    rows = rows_of(charts(grouped)["cost"].spec)
    assert rows
    assert all(row["low"] < row["cost"] < row["high"] for row in rows)


def test_measured_against_predicted(tmp_path: Path) -> None:
    for i, alpha in enumerate((0.99, 0.9995, 0.9999)):
        evaluation = {"kl": 0.02 * (i + 1), "kl_se": 0.001, "sites": [], "tokens": {"sha256": "t", "samples": 8}}
        cell = write(tmp_path / "s" / str(alpha), mamba(layers=1, size=60), alpha=alpha, evaluation=evaluation)
        predicts(cell, 0.01 * (i + 1))
    chart = charts(answer(load(tmp_path / "s")))["predicted"]
    assert {(row["predicted"], row["measured"]) for row in rows_of(chart.spec)} == {
        (0.01, 0.02),
        (0.02, 0.04),
        (0.03, 0.06),
    }
    assert "Rank correlation 1.00 over 3 cells" in chart.caption
    assert "2.0 times" in chart.caption


def test_every_axis_of_a_figure_says_what_it_shows(swept: Answer, grouped: Answer) -> None:
    """In a file nothing can be chosen, so the picture itself names measure and unit."""
    drawn = charts(swept)["sensitivity"]
    assert "KL to the unquantized model, nats per token, only this layer" in vl_convert.vegalite_to_svg(
        standalone(drawn, swept)
    )
    for a in (swept, grouped):
        for name, chart in charts(a).items():
            if name in ("methods-formats", "cost-map", "best-alpha"):
                continue  # of rows and columns with names
            axes = encodings(chart.spec, "x")
            assert any(axis.get("title") or axis.get("axis", {}).get("title") for axis in axes), (name, axes)


def test_the_map_of_formats_writes_errors_and_marks_ties(tmp_path: Path) -> None:
    for format, cost in (("int8", 0.01), ("int4", 0.5)):
        for i, alpha in enumerate((0.99, 0.9995, 0.9999)):
            kl = cost * (1, 1.02, 2)[i]
            evaluation = {"kl": kl, "kl_se": cost / 10, "sites": [], "tokens": {"sha256": "t", "samples": 30}}
            write(
                tmp_path / "s" / f"{format}{alpha}", mamba(layers=1, size=60), alpha=alpha, format=format,
                evaluation=evaluation,
            )  # fmt: skip
    a = answer(load(tmp_path / "s"))
    chart = charts(a)["methods-formats"]
    said = {(row["setting"], row["format"]): (row["said"], row["small"]) for row in rows_of(chart.spec)}
    assert said["percentile 0.99", "int8"] == ("0.010", "± 0.001")
    assert said["percentile 0.9995", "int8"] == ("~ 0.010", "± 0.001")
    assert said["percentile 0.9999", "int4"] == ("1.00", "± 0.05")
    assert "~ marks what is tied with it" in chart.caption
    drawn = vl_convert.vegalite_to_svg(standalone(chart, a))
    assert "~ 0.010" in drawn
    assert "± 0.05" in drawn


def test_of_cells_that_repeat_one_another_the_map_of_formats_has_one(tmp_path: Path) -> None:
    for sweep in ("a", "b"):
        for format in ("int8", "int4"):
            for alpha in (0.99, 0.9995):
                path = write(
                    tmp_path / sweep / f"{format}{alpha}", mamba(layers=1, size=60), alpha=alpha, format=format
                )
                predicts(path, 0.01 + alpha)
    drawn = rows_of(charts(answer(load(tmp_path / "a", tmp_path / "b")))["methods-formats"].spec)
    assert len(drawn) == len({(row["context"], row["setting"], row["format"]) for row in drawn}) == 4


def by_hand(cell: Path, column: str, layer: int, site: str) -> np.ndarray[Any, Any]:
    table = pd.read_parquet(cell / "replicates.parquet")
    values: np.ndarray[Any, Any] = (
        table[(table.layer == layer) & (table.site == site)].sort_values("fold")[column].to_numpy()
    )
    return values


def test_the_map_of_places_has_errors_and_marks_what_is_not_told_from_the_dearest(tmp_path: Path) -> None:
    for alpha in (0.9, 0.9995):
        write(tmp_path / "s" / str(alpha), mamba(layers=3, size=2000), alpha=alpha)
    a = answer(load(tmp_path / "s"))
    chart = charts(a)["cost-map"]
    seen = set()
    for number, label in enumerate(a.runs.labels):
        table = [row for row in rows_of(chart.spec) if row["cell"] == label]
        (dearest,) = (row for row in table if row["mark"] == "○")
        assert dearest["cost"] == max(row["cost"] for row in table)
        cell = a.runs.listed[number].path
        most = 10 ** (-by_hand(cell, "sqnr_db", dearest["layer"], dearest["site"]) / 10)
        for row in table:
            mine = 10 ** (-by_hand(cell, "sqnr_db", row["layer"], row["site"]) / 10)
            assert row["error"] == float(f"{jackknife(mine):.2g}")
            if row is not dearest:
                tied = dearest["cost"] - row["cost"] <= quantile(0.95, freedom(len(mine))) * jackknife(mine - most)
                assert row["mark"] == ("~" if tied else "")
                seen.add(row["mark"])
    assert seen == {"", "~"}


def test_the_best_alpha_has_errors_and_marks_ties(tmp_path: Path) -> None:
    world = mamba(layers=3, size=300)
    for alpha in (0.9, 0.995, 0.9995):
        write(tmp_path / "s" / str(alpha), world, alpha=alpha)
    a = answer(load(tmp_path / "s"))
    chart = charts(a)["best-alpha"]
    table = rows_of(chart.spec)
    marks = {row["mark"] for row in table}
    assert marks == {"best", "tied", ""}
    for row in table:
        best = next(
            r for r in table if (r["layer"], r["site"], r["mark"]) == (row["layer"], row["site"], "best")
        )  # fmt: skip
        mine, its = (by_hand(tmp_path / "s" / r["alpha"], "sqnr_db", row["layer"], row["site"]) for r in (row, best))
        assert row["error"] == float(f"{jackknife(mine):.2g}")
        if row is not best:
            error = jackknife(its - mine)
            assert row["below_error"] == float(f"{error:.2g}")
            assert (row["mark"] == "tied") == (row["below"] <= quantile(0.95, freedom(len(mine))) * error)


def test_differences_have_errors_and_are_faint_within_noise(swept: Answer, tmp_path: Path) -> None:
    for name in ("difference-scale", "difference-sqnr"):
        chart = charts(swept)[name]
        assert all(row["error"] is not None for row in rows_of(chart.spec))
    for seed in range(2):
        write(tmp_path / "s" / str(seed), mamba(layers=6, seed=seed, tokens=f"{seed}" * 64), alpha=0.99)
    a = answer(load(tmp_path / "s"))
    chart = charts(a)["difference-scale"]
    noise = [row["noise"] for row in rows_of(chart.spec)]
    assert sum(noise) > 0.8 * len(noise)  # nothing but noise differs
    assert "Faint: noise may be all of it" in chart.caption
    assert "opacity" in chart.spec["encoding"]


def test_no_tooltip_shows_a_number_without_the_error_that_is_known(swept: Answer, grouped: Answer) -> None:
    """Of every chart, by the fields of its tooltips: what is estimated has an error or a band beside it."""
    estimated = {"cost", "sqnr", "below", "gain", "ratio", "clip", "scale", "predicted", "measured", "loss", "change"}
    bounds = {"error", "low", "small", "below_error", "ratio_error", "predicted_error", "measured_error"}
    for a in (swept, grouped):
        for name, chart in charts(a).items():
            for tip in encodings(chart.spec, "tooltip"):
                fields = {one["field"] for one in tip}
                if fields & estimated:
                    assert fields & bounds, (name, fields)


def test_a_gain_has_its_band_and_is_not_said_to_reach_beyond_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for alpha in (0.99, 0.9995):
        path = write(tmp_path / "s" / str(alpha), mamba(layers=2, size=60), alpha=alpha) / "replicates.parquet"
        table = pd.read_parquet(path)
        table["silu_gain"] = np.where(table.site == "x_conv_out", rng.uniform(0.9, 1.0, len(table)), None)
        table.to_parquet(path)
    spec = charts(answer(load(tmp_path / "s")))["gain"].spec
    drawn = rows_of(spec)
    known = [row for row in drawn if row["of"] == "x_conv_out"]
    assert known
    for row in known:
        mine = by_hand(tmp_path / "s" / row["setting"].split()[1], "silu_gain", row["layer"], "x_conv_out")
        assert row["error"] == float(f"{jackknife(mine.astype(float)):.2g}")
    assert all(row["error"] is None for row in drawn if row["of"] != "x_conv_out")
    filtered, *ends = spec["layer"][0]["transform"]
    assert filtered == {"filter": "isValid(datum.error)"}
    assert {end["as"]: end["calculate"] for end in ends} == {
        "low": "datum.gain - 2 * datum.error",
        "high": "max(datum.gain, min(datum.gain + 2 * datum.error, 1))",
    }
