"""The terminal's answer and what is written: short, narrow, ranked, and silent about what nobody asked."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import mamba, write

from sweep.compare import load
from sweep.compare.__main__ import main
from sweep.compare.analysis.cost import MEASURED, SQNR, Estimate
from sweep.compare.analysis.ranking import BEST, Group, Row
from sweep.compare.answer import Answer, answer, headlines
from sweep.compare.charts import charts
from sweep.compare.render import sentences
from sweep.compare.render.numbers import decibels, nats
from sweep.compare.render.ranked import ranked
from sweep.compare.render.terminal import show_table
from sweep.compare.render.writers import FORMATS, LINE, LONGEST, WIDEST
from sweep.compare.tables.catalogue import tables
from sweep.compare.tables.table import Table
from sweep.core.console import Console
from sweep.core.errors import UsageError
from tests.unit.compare.conftest import Done
from tests.unit.compare.test_cost import evaluated, lossy

Run = Callable[..., Done]
WORLD = mamba(layers=2, size=60)


@pytest.fixture(scope="module")
def forty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 cells: 10 settings, 2 formats, 2 models."""
    root = tmp_path_factory.mktemp("runs") / "forty"
    for model in ("tiny", "2.7b"):
        world = mamba(layers=2, size=60, model=model)
        for format in ("int8", "int4"):
            write(root / f"{model}-{format}-m", world, method="minmax", format=format)
            for alpha in np.linspace(0.9, 0.99999, 9):
                write(root / f"{model}-{format}-{alpha}", world, alpha=float(alpha), format=format)
    return root


def shown(root: Path, columns: int, *more: str) -> list[str]:
    """The lines of `sweep.compare` on a terminal so wide, run in this process: see test_nothing_leaks_on_stderr."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setenv("COLUMNS", str(columns))
        patch.setattr("sys.argv", ["sweep.compare", str(root), "--no-html", *more])
        assert main() == 0
    return out.getvalue().splitlines()


@pytest.mark.parametrize("columns", [80, 40])
def test_forty_cells_fit_a_screen(forty: Path, columns: int) -> None:
    lines = shown(forty, columns)
    assert max(map(len, lines)) <= columns
    assert columns < 80 or len(lines) <= 40
    text = "\n".join(lines)
    for words in ("40 cells", "best by SQNR", "not measured", "matters:", "tiny · int8"):
        assert words in text
    assert "SiLU" not in text


def test_every_group_shows_its_best(forty: Path) -> None:
    a = answer(load(forty))
    assert [len(group.rows) for group in a.ranking] == [10] * 4
    text = "\n".join(shown(forty, 80))
    for group in a.ranking:
        assert group.rows[0].verdict == "best"
        assert group.rows[0].setting in text
    assert len(headlines(a)) <= 8


def test_of_more_cells_than_are_looked_into_every_best_has_its_clip_rate(
    forty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.compare.analysis.ranking.MOST", 4)
    for group in answer(load(forty)).ranking:
        assert group.rows[0].clipped is not None
        assert group.rows[-1].clipped is None


def test_one_cell_gives_its_own_result(tmp_path: Path) -> None:
    path = evaluated(tmp_path / "a", 0.0123, 7.0)
    run = json.loads((path / "run.json").read_text())
    alone = [{"kl": kl, "kl_se": 0.0004, "perplexity": 7 + kl} for kl in (0.001, 0.004, 0.002)]
    layers = [{"layer": n, "only": only} for n, only in enumerate(alone)]
    run["evaluation"]["layers"] = layers
    (path / "run.json").write_text(json.dumps(run))
    lines = headlines(answer(load(tmp_path)))
    assert lines[0].startswith("Result: percentile 0.9995, tiny: 0.012")
    assert "nats/token (measured KL), perplexity 7" in lines[0]
    assert "Sensitive: layers 1 (0.0040 ± 0.0004 nats), 2 (0.0020 ± 0.0004 nats), 0" in lines[1]
    assert "rank correlation" in lines[1]
    assert not any("SiLU" in line for line in lines)
    text = "\n".join(shown(tmp_path, 80))
    assert text.startswith("1 cell · tiny")
    assert "perplexity" in text


def test_best_and_worst_have_the_baseline_among_them(tmp_path: Path) -> None:
    """int8 is the baseline and the best: whatever loses to it is not."""
    for format in ("int8", "int4"):
        write(tmp_path / format, WORLD, format=format)
    a = answer(load(tmp_path))
    (v,) = a.verdicts
    assert sentences.verdict(v).startswith("int4 is worse than int8: mean SQNR −")
    row = next(t for t in tables(a) if t.name == "verdicts").frame().iloc[0]
    assert (row.best, row.worst) == ("int8", "int4")
    for alpha in (0.9, 0.99999):
        write(tmp_path / "alphas" / str(alpha), mamba(layers=2, size=2000), alpha=alpha)
    write(tmp_path / "alphas" / "base", mamba(layers=2, size=2000), alpha=0.999)
    (v,) = answer(load(tmp_path / "alphas"), baseline="alpha=0.999").verdicts
    best = max(v.evidence, key=lambda e: e.overall[0])
    expected = "0.999, the baseline" if best.overall[0] < 0 else v.contrast.value(best.other)
    assert f"best is {expected}" in sentences.verdict(v)


def test_what_before_silu_differs_is_not_named(tmp_path: Path) -> None:
    for alpha in (0.9, 0.9995):
        path = write(tmp_path / str(alpha), WORLD, alpha=alpha)
    table = pd.read_parquet(path / "scales.parquet")
    table.loc[table.site.str.endswith("_pre"), "sqnr_db"] += 100
    table.to_parquet(path / "scales.parquet")
    a = answer(load(tmp_path))
    assert a.verdicts[0].row is not None
    assert not a.verdicts[0].row.site.endswith("_pre")
    assert not any("_pre" in text for text in headlines(a))
    assert not any(c.worst_site.endswith("_pre") for c in a.convergence)


def test_a_mean_of_some_places_is_no_mean(tmp_path: Path) -> None:
    path = write(tmp_path / "a", WORLD, method="minmax", grid=(2, 2))
    table = pd.read_parquet(path / "scales.parquet")
    table.loc[table.site == "x_conv_out", "sqnr_db"] = None
    table.to_parquet(path / "scales.parquet")
    a = answer(load(tmp_path))
    assert a.ranking[0].rows[0].sqnr is None
    assert next(t for t in tables(a) if t.name == "cells").frame()["mean SQNR dB"].isna().all()


def test_names_in_any_case(forty: Path, compare: Run) -> None:
    mine = load(forty, method="MinMax,PERC*", model="TINY", format="INT8", site="X_CONV_*")
    assert len(mine.listed) == 10
    assert mine.sites == ["x_conv_in", "x_conv_out", "x_conv_pre"]
    assert compare(str(forty), "--no-html", "--baseline", "method=MinMax", "--method", "MINMAX,percentile").code == 0


def test_a_baseline_that_is_no_knob_says_the_knobs(forty: Path) -> None:
    with pytest.raises(UsageError, match=r"allowed: alpha, method, format, granularity, data$"):
        answer(load(forty), "colour=red")


def test_the_command_to_go_on_with(tmp_path: Path) -> None:
    for alpha in (0.9, 0.9995):
        path = write(tmp_path / str(alpha), WORLD, alpha=alpha)
        (path / ".hydra").mkdir()
        words = ["experiment=alpha_grid", f"alpha={alpha}", "model=tiny", "data.path=my text.txt"]
        (path / ".hydra" / "overrides.yaml").write_text("".join(f"- {word}\n" for word in words))
    (line,) = [text for text in headlines(answer(load(tmp_path))) if text.startswith("Measure it")]
    assert line.endswith("python -m sweep alpha=0.9995 model=tiny 'data.path=my text.txt' evaluate.perplexity=true")
    (tmp_path / "0.9995" / ".hydra" / "overrides.yaml").unlink()
    (line,) = [text for text in headlines(answer(load(tmp_path))) if text.startswith("Measure it")]
    assert "method=percentile alpha=0.9995" in line


def test_a_broken_command_is_one_to_a_shell(tmp_path: Path) -> None:
    for alpha in (0.9, 0.9995):
        path = write(tmp_path / str(alpha), WORLD, alpha=alpha)
        (path / ".hydra").mkdir()
        words = [f"alpha={alpha}", *(f"calibration.samples={n}" for n in range(8))]
        (path / ".hydra" / "overrides.yaml").write_text("".join(f"- {word}\n" for word in words))
    lines = shown(tmp_path, 60)
    at = lines.index("measure it:") + 1
    end = next(i for i in range(at, len(lines)) if not lines[i].endswith("\\"))
    (line,) = [text for text in headlines(answer(load(tmp_path))) if text.startswith("Measure it")]
    joined = " ".join(" ".join(lines[at : end + 1]).replace("\\", " ").split())
    assert line == f"Measure it: {joined}"


@pytest.fixture(scope="module")
def found(forty: Path) -> Answer:
    return answer(load(forty))


def test_csv_is_one_table(found: Answer) -> None:
    every = pd.read_csv(io.StringIO(FORMATS["csv"](found, tables(found))))
    assert list(every.columns) == ["table", "title", "row", "column", "value"]
    assert set(every.table) == {t.name for t in tables(found)}
    for name in ("settings", "alpha", "minmax"):
        same = [t for t in tables(found) if t.name == name]
        back = pd.read_csv(io.StringIO(FORMATS["csv"](found, same)))
        assert len(back) == sum(len(t.rows) for t in same)
        assert set(back.columns) - {"title"} == {c.name for t in same for c in t.columns}


def test_csv_has_warnings_beside_the_rows(tmp_path: Path) -> None:
    for i in range(2):
        write(tmp_path / str(i), mamba(layers=1, size=80, tokens=f"{i}" * 64))
    a = answer(load(tmp_path))
    one = [t for t in tables(a) if t.name == "cells"]
    back = pd.read_csv(io.StringIO(FORMATS["csv"](a, one)))
    assert back.warning.str.contains("2 different token sets").all()


def test_latex_tables_are_whole_and_fit(found: Answer) -> None:
    """Parsed as LaTeX would read them: environments close, braces match, every row has the declared columns."""
    text = FORMATS["latex"](found, tables(found))
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    labels = re.findall(r"\\label\{(.*?)\}", text)
    assert len(labels) == len(set(labels)) == text.count("\\begin{table}") == text.count("\\caption{")
    assert all(re.fullmatch(r"tab:[\w-]+", label) for label in labels)
    for sides, body in re.findall(
        r"\\begin\{tabular\}\{((?:[lr]|p\{[\d.]+em\})+)\}(.*?)\\end\{tabular\}", text, re.DOTALL
    ):
        sides = re.sub(r"p\{.*?\}", "p", sides)
        assert len(sides) <= WIDEST == 8
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert 1 < len(rows) <= 1 + LONGEST
        rows = [re.sub(r"\\shortstack\[r\]\{(.*?)\\\\.*?\}", r"\1", row) for row in rows]
        signs = [re.sub(r"\\[A-Za-z]+(?:\{\})?", "x", row.replace(r"\allowbreak{}", "")) for row in rows]  # one each
        cells = [[len(re.sub(r"[$\\]", "", cell).strip()) for cell in row.split("&")] for row in signs]
        widest = [max(column) for column in zip(*cells, strict=True)]
        assert sum(12 if side == "p" else size for side, size in zip(sides, widest, strict=True)) <= LINE
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) == len(sides) - 1
    outside = re.sub(r"\\[%&#_${}]", "", re.sub(r"^%.*$", "", text, flags=re.MULTILINE))
    assert not re.search(r"[#%_]", re.sub(r"\\(?:label|begin|end)\{.*?\}", "", outside))
    assert text.isascii() or not set(text) & set("→≤×…±−Δ∞²·")


def test_latex_tables_of_long_texts_are_no_longer_than_a_page(tmp_path: Path) -> None:
    for i in range(30):
        write(tmp_path / str(i), WORLD, alpha=0.9 + i / 1000, name=f"cell {i} " + "knob=value " * 20)
    a = answer(load(tmp_path))
    text = FORMATS["latex"](a, tables(a))
    for sides, body in re.findall(r"\\begin\{tabular\}\{([^\n]*em\}[^\n]*)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        widths = [float(w[:-2]) * 2 if w else None for w in re.findall(r"[lr]|p\{([\d.]+em)\}", sides)]
        rows = [line.split(" & ") for line in body.splitlines() if line.endswith(r"\\")][1:]
        lines = [max(-(-len(c) // w) if w else 1 for c, w in zip(row, widths, strict=True)) for row in rows]
        assert sum(lines) <= LONGEST + max(lines), body
    settings = [t for t in tables(a) if t.name == "settings"]
    assert "clearpage" not in FORMATS["latex"](a, settings)
    longest_queue = max(part.count("begin{table}") for part in text.split(r"\clearpage"))
    assert longest_queue <= 12 < text.count("begin{table}")


def test_the_table_of_formats_marks_the_best_and_has_errors(found: Answer) -> None:
    table = next(t for t in tables(found) if t.name == "formats").frame().set_index("setting")
    for format in ("int8", "int4"):
        assert format in table.loc[table[format].idxmax(), "best in"].split(", ")
        assert (table[f"± {format}"] > 0).all()


def test_a_section_without_content_does_not_appear(found: Answer) -> None:
    assert "structure" not in {t.name for t in tables(found)}  # one scale per tensor has no shape
    choices = next(t for t in tables(found) if t.name == "choices")
    assert "Loss:" in choices.caption
    assert "loss dB" in [c.name for c in choices.columns]


def test_one_cell_that_was_not_evaluated_hides_no_cost(tmp_path: Path) -> None:
    """Settings of known cost are ranked by it, whoever was not evaluated beside them; never by SQNR instead."""
    for alpha, kl in ((0.9995, 0.02), (0.99, 0.01), (0.95, 0.03)):
        evaluated(tmp_path / str(alpha), kl, 7.0, alpha=alpha)
    write(tmp_path / "m", WORLD, method="minmax")
    a = answer(load(tmp_path))
    (group,) = a.ranking
    assert group.kind == "measured KL"
    assert [row.setting for row in group.rows] == [f"percentile {x}" for x in (0.99, 0.9995, 0.95)] + ["minmax"]
    assert (group.rows[0].verdict, group.rows[-1].verdict) == ("best", "not ranked")
    assert group.rows[-1].sqnr is not None
    lines = headlines(a)
    assert lines[0].startswith("Take: percentile 0.99 (0.01")
    assert "of 1 of 4 settings the cost is unknown" in lines[0]
    assert not any("effect on the model unknown" in line for line in lines)
    drawn = charts(a)["cost"]
    assert "measured KL" in drawn.title
    assert "not evaluated" in drawn.caption
    for i in range(4):  # now most are unknown: what two of seven cost is no ranking
        write(tmp_path / f"more{i}", WORLD, alpha=0.9 + i / 100)
    assert {g.kind for g in answer(load(tmp_path)).ranking} == {"SQNR"}


def test_sweeps_of_several_calibrations_stay_apart(tmp_path: Path) -> None:
    """Tables of formats and the chart that answers mix no calibrations, and rank as the answer does."""
    for format in ("int8", "int4"):
        for alpha, kl in ((0.9995, 0.02), (0.99, 0.01)):
            evaluated(tmp_path / "a" / f"{format}{alpha}", kl, 7.0, alpha=alpha, format=format)
            write(
                tmp_path / "b" / f"{format}{alpha}",
                mamba(layers=2, size=90, tokens="b" * 64),
                alpha=alpha,
                format=format,
            )
    a = answer(load(tmp_path))
    made = [t for t in tables(a) if t.name == "formats"]
    assert len({t.title for t in made}) == 2
    measured = next(t for t in made if t.caption.startswith("Measured KL"))
    best = measured.frame().set_index("setting")["best in"]
    assert best["percentile 0.99"].split(", ") == ["int4", "int8"]
    assert next(t for t in made if t is not measured).caption.startswith("Mean SQNR")
    drawn = charts(a)["cost"]
    assert drawn.title.startswith("What each setting costs: measured KL")
    assert "another measure ranks (2)" in drawn.caption
    assert headlines(a)[0].startswith("Take: percentile 0.99")


def test_the_command_says_which_context_it_is_for(tmp_path: Path) -> None:
    for format in ("int8", "int4"):
        evaluated(tmp_path / f"{format}p", 0.02, 7.0, format=format)
        evaluated(tmp_path / f"{format}m", 0.01 if format == "int4" else 0.04, 7.0, method="minmax", format=format)
    lines = headlines(answer(load(tmp_path)))
    assert lines[0].startswith("Take: percentile 0.9995 (int8), minmax (int4)")
    assert "method=percentile alpha=0.9995" in lines[1]
    assert lines[2] == "That is for: int8; for int4 put method=minmax format=int4."


def test_a_command_has_no_alpha_that_its_method_ignores(tmp_path: Path) -> None:
    for name, kl in (("minmax", 0.01), ("percentile", 0.02)):
        path = evaluated(tmp_path / name, kl, 7.0, method=name)
        (path / ".hydra").mkdir()
        (path / ".hydra" / "overrides.yaml").write_text(f"- method={name}\n- alpha=0.9995\n")
    run = next(line for line in headlines(answer(load(tmp_path))) if line.startswith("Run"))
    assert run == "Run: python -m sweep method=minmax"


def test_costs_keep_their_errors_and_the_share_clipped_at_80_columns(tmp_path: Path) -> None:
    for alpha, kl in ((0.9995, 0.02), (0.99999, 0.01)):
        evaluated(tmp_path / str(alpha), kl, 7.0, alpha=alpha)
    lines = shown(tmp_path, 80)
    assert lines[2].split("  ")[-1].strip() == "clipped"
    assert all(line.count("±") >= 2 for line in lines[3:5])  # of KL and of what perplexity rises by
    assert not any("against best" in line for line in lines)


def test_what_an_effect_is_against(tmp_path: Path) -> None:
    for alpha in (0.9, 0.9995):
        write(tmp_path / str(alpha), mamba(layers=2, size=2000), alpha=alpha)
    (line,) = [line for line in headlines(answer(load(tmp_path))) if line.startswith("Matters")]
    assert re.search(r"0\.9995 against 0\.9: |0\.9 against 0\.9995: ", line)


def test_many_contexts_all_have_their_best_row(tmp_path: Path) -> None:
    """Long names of contexts and cells of several sweeps leave the table its room at 80 columns, in 40 lines."""
    for tokens in "abcd":
        world = mamba(layers=2, size=60, tokens=tokens * 64)
        for format in ("int8", "int4"):
            for alpha in (0.9, 0.9995):
                write(tmp_path / f"{tokens}{format}{alpha}", world, alpha=alpha, format=format)
    lines = shown(tmp_path, 80)
    assert len(lines) <= 40
    assert sum(line.endswith("  best") for line in lines) == 8
    assert any(line.startswith("best by SQNR: percentile 0.9995") for line in lines)


def test_other_sweeps_are_not_asked_the_studys_questions(tmp_path: Path, compare: Run) -> None:
    for alpha in (0.9995, 0.99999):
        write(tmp_path / "study" / str(alpha), WORLD, alpha=alpha)
    write(tmp_path / "study" / "g", WORLD, method="minmax", grid=(2, 2))
    write(tmp_path / "other" / "m", WORLD, method="minmax")
    assert answer(load(tmp_path / "study")).seed
    assert not answer(load(tmp_path)).seed
    assert answer(load(tmp_path), explain=True).seed
    assert "The study" not in compare(str(tmp_path), "--no-html").out


def test_a_wide_table_is_not_crushed(forty: Path) -> None:
    lines = shown(forty, 80, "--table", "cells")
    assert max(map(len, lines)) <= 80
    words = {word for line in lines for word in line.split()}
    assert {"percentile", "samples", "calibration"} <= words
    assert any(
        line.startswith("Calibration: cells of one letter") for line in lines[-3:]
    )  # what a table's words mean is said with it


@pytest.mark.parametrize("arguments", [["--help"], ["--nonsense"], ["nowhere"], ["{forty}", "--metric", "beauty"]])
def test_nothing_leaks_on_stderr(forty: Path, arguments: list[str]) -> None:
    words = [word.format(forty=forty) for word in arguments]
    done = subprocess.run([sys.executable, "-m", "sweep.compare", *words], capture_output=True, text=True, timeout=60)
    assert done.stderr == "" or re.fullmatch(r"error: .*\n", done.stderr)


def test_python(forty: Path) -> None:
    runs = load(forty)
    assert runs.settings().equals(runs.table("settings"))
    assert {"settings", "verdicts", "cells"} <= set(runs.tables())
    assert set(runs.table("alpha")["title"]) == {t.title for t in tables(runs.answer) if t.name == "alpha"}
    assert runs.conclusions() == headlines(runs.answer)
    assert "<table" in runs._repr_html_()
    name = runs.charts()[0]
    drawing = runs.chart(name)
    assert drawing._repr_svg_().startswith("<svg")
    assert drawing.caption.startswith(drawing.title)
    for call in (runs.table, runs.chart):
        with pytest.raises(UsageError, match="is unknown; allowed: "):
            call("chairs")


@pytest.mark.parametrize(
    ("value", "error", "text", "compact"),
    [
        (0.005634, 0.000213, "0.0056 ± 0.0002", "0.0056(2)"), (1.5, float("nan"), "1.5", "1.5"),
        (12.3456, 3.0, "12 ± 3", "12(3)"), (1.2e-8, 3e-9, "(1.2 ± 0.3)e-8", "1.2(3)e-8"),
        (-0.01, 0.002, "−0.010 ± 0.002", "−0.010(2)"), (0.123, 0.097, "0.12 ± 0.10", "0.12(10)"),
        (250.0, 30.0, "250 ± 30", "250(30)"), (0.5, 0.0, "0.5", "0.5"),
    ],
)  # fmt: skip
def test_nats_to_the_digit_of_their_error(value: float, error: float, text: str, compact: str) -> None:
    assert nats(Estimate(value, error)) == text
    assert nats(Estimate(value, error), compact=True) == compact
    assert nats(None) == "–"


def test_groups_beyond_those_that_are_tested_are_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.compare.analysis.recommend.CONTEXTS", 1)
    for format in ("int8", "int4"):
        for alpha in (0.9, 0.95, 0.9995):
            write(tmp_path / f"{format}{alpha}", WORLD, alpha=alpha, format=format)
    a = answer(load(tmp_path))
    assert len(a.advice) == 1
    for group in a.ranking:
        means = [row.sqnr for row in group.rows if row.sqnr is not None]
        assert means == sorted(means, reverse=True)
        assert next(row.verdict for row in group.rows) == "best"


def test_what_is_known_of_some_places_is_no_best(tmp_path: Path) -> None:
    """Minmax of groups has no SQNR where groups are: it is not ranked, and no mean difference to it is told."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for method in ("minmax", "percentile"):
        cell = write(tmp_path / "s" / method, mamba(layers=2, size=300), method=method, grid=(2, 2))
        for name in ("scales", "replicates") if method == "minmax" else ():
            table = pq.read_table(cell / f"{name}.parquet").to_pylist()
            table = [row | {"sqnr_db": None} if row["site"] == "x_conv_out" else row for row in table]
            pq.write_table(pa.Table.from_pylist(table), cell / f"{name}.parquet")
    a = answer(load(tmp_path / "s"))
    (group,) = a.ranking
    assert [(row.setting, row.verdict) for row in group.rows] == [("percentile 0.9995", ""), ("minmax", "not ranked")]
    assert not a.advice
    labels = [line.split(":")[0] for line in headlines(a)]
    assert "Take" not in labels
    assert "Best by SQNR" not in labels
    (v,) = [v for v in a.verdicts if v.contrast.knob == "method"]
    assert all(np.isnan(e.overall[0]) for e in v.evidence)
    assert "nothing is known of the SQNR" in sentences.verdict(v)
    assert "dB" not in next(line for line in headlines(a) if "method" in line)


@pytest.mark.parametrize("columns", [80, 48, 40, 34])
@pytest.mark.parametrize("measured", [True, False])
def test_a_number_that_ranks_keeps_its_error_at_any_width(tmp_path: Path, columns: int, measured: bool) -> None:
    for alpha, kl in ((0.9995, 0.02), (0.99999, 0.01), (0.9999, 0.015)):
        if measured:
            evaluated(tmp_path / str(alpha), kl, 7.0, alpha=alpha)
        else:
            write(tmp_path / str(alpha), mamba(layers=2, size=2000), alpha=alpha)
    lines = shown(tmp_path, columns)
    assert max(map(len, lines)) <= columns
    table, _, note = " ".join(lines[2 : lines.index("", 2)]).partition("0.012(3) stands for")
    errors = re.findall(r"\d(?: ± <?[\d.]+|\(\d+\))", table)
    assert len(errors) >= (3 if measured else 2)  # of SQNR the best one is what others are held against
    compact = "(" in table
    assert compact == (note.split() == ["0.012", "±", "0.003"])
    assert compact or columns > 40


def test_two_measures_and_settings_that_are_not_ranked_fit_40_columns(tmp_path: Path) -> None:
    for alpha, kl in ((0.9995, 0.02), (0.99999, 0.01), (0.99, 0.03)):
        lossy(evaluated(tmp_path / str(alpha), kl, 7.0, alpha=alpha), 1, 1e-4)
    write(tmp_path / "m", WORLD, method="minmax")
    for alpha in (0.9995, 0.99999):
        lossy(write(tmp_path / f"int4{alpha}", WORLD, alpha=alpha, format="int4"), 1, 1e-3)
    lines = shown(tmp_path, 40)
    assert max(map(len, lines)) <= 40
    table = lines[2 : lines.index("", 2)]
    assert len(re.findall(r"\d\(\d+\)", "\n".join(table[:-1]))) == 3 * 2 + 2


def test_where_sqnr_ranks_it_has_its_error() -> None:
    rows = [Row("mse", 0, None, None, None, 33.284, None, 0.0, None, None, BEST, 0.006)]
    rows += [Row("minmax", 1, None, None, None, 25.79, Estimate(7.49, 0.31), 0.0, None, None, "", 0.314)]
    group = Group("here", SQNR, tuple(rows))
    wide, narrow = ([line.plain.split() for line in ranked([group], width, 20)] for width in (80, 36))
    assert wide[1:] == [
        ["mse", "33.28", "±", "0.01", "0", "best"],
        ["minmax", "25.79", "±", "0.31", "−7.49", "±", "0.31", "0"],
    ]
    assert narrow[-3:-1] == [["mse", "33.28(1)", "best"], ["minmax", "25.8(3)", "−7.5(3)"]]


@pytest.mark.parametrize(
    ("value", "error", "text", "compact"),
    [
        (33.284, 0.02, "33.28 ± 0.02", "33.28(2)"),
        (25.79, 0.31, "25.79 ± 0.31", "25.8(3)"),
        (-3.1, 0.004, "−3.10 ± <0.01", "−3.10(<1)"),
        (2.0, 0.0, "2.00 ± 0.00", "2.00(0)"),
        (2.0, None, "2.00", "2.00"),
        (2.0, math.nan, "2.00", "2.00"),
        (None, 0.1, "–", "–"),
        (math.nan, 0.1, "–", "–"),
    ],
)
def test_decibels(value: float | None, error: float | None, text: str, compact: str) -> None:
    assert (decibels(value, error), decibels(value, error, compact=True)) == (text, compact)


def test_names_that_are_too_long_are_not_cut_to_the_same() -> None:
    estimate = Estimate(0.012, 0.003)
    rows = [
        Row(f"percentile 0.{'9' * n}", n, estimate, None, None, 30.0, None, 0.0, None, None, "") for n in (20, 21, 22)
    ]
    lines = [line.plain for line in ranked([Group("here", MEASURED, tuple(rows))], 30, 20)]
    assert max(map(len, lines[:-1])) <= 30  # the last one is a note, which wraps
    text = "".join(lines)
    assert text.count("9") == 20 + 21 + 22
    assert text.count("0.012(3)") == 4  # and the note
    assert "…" not in text


@pytest.fixture(scope="module")
def listed(forty: Path) -> list[Table]:
    return tables(answer(load(forty)))


@pytest.mark.parametrize("name", ["settings", "formats", "alpha", "verdicts", "data", "minmax", "silu", "layers"])
@pytest.mark.parametrize("columns", [80, 40])
def test_every_table_has_its_errors_at_any_width(listed: list[Table], name: str, columns: int) -> None:
    def drawn(width: int) -> str:
        console = Console(file=io.StringIO(), width=width)
        for table in listed:
            if table.name == name:
                show_table(table, console)
        return console.file.getvalue()  # type: ignore[attr-defined]

    wide, narrow = drawn(400), drawn(columns)
    assert max(map(len, narrow.splitlines())) <= columns
    errors = re.compile(r"[\d.]+ ± <?[\d.e-]+")
    assert sorted(set(errors.findall(narrow))) == sorted(set(errors.findall(wide)))
    assert errors.search(wide) or name == "data"
