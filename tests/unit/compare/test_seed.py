"""The seed's questions on constructed runs: each answer follows the numbers, and turns when they do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic import World, mamba, write

from compare.conftest import Done
from sweep.compare import load
from sweep.compare.answer import answer
from sweep.compare.studies.quamba_alpha.reply import ANSWERED, FAILS, HOLDS, OPEN, PARTLY, REASON, STILL, Reply
from tests.harness import ROOT, command

ACTS, TAIL, SIZES, EXPANDS, LAYERS, MINMAX, SHAPE, ADVICE, UNMEASURED = range(9)


def study(root: Path, world: World, grouped: bool = True, evaluation: dict[str, Any] | None = None) -> Path:
    """The cells of experiment=seed; minmax of groups at two alphas, as a planner that folds nothing would leave it."""
    for alpha in (0.995, 0.9995, 0.99999):
        write(root / f"t{alpha}", world, alpha=alpha, evaluation=evaluation)
    write(root / "tmax", world, method="minmax")
    if grouped:
        for alpha in (0.9995, 0.99999):
            write(root / f"g{alpha}", world, alpha=alpha, grid=(4, 4))
            write(root / f"gmax{alpha}", world, method="minmax", alpha=alpha, grid=(4, 4))
    return root


def asked(*paths: Path) -> list[Reply]:
    found = answer(load(*paths)).seed
    assert len(found) in (0, 9)
    return found


@pytest.fixture(scope="module")
def world() -> World:
    return mamba(layers=4, size=800)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, world: World) -> Path:
    return study(tmp_path_factory.mktemp("runs") / "seed", world)


@pytest.fixture(scope="module")
def replies(directory: Path) -> list[Reply]:
    return asked(directory)


def table(cell: Path, site: str = "x_conv_out") -> pd.DataFrame:
    frame = pd.read_parquet(cell / "scales.parquet")
    return frame[frame.site == site].set_index("layer").sort_index()


def change(cell: Path, file: str = "scales", site: str = "x_conv_out", **columns: Callable[[Any], Any]) -> None:
    path = cell / f"{file}.parquet"
    frame = pd.read_parquet(path)
    for name, to in columns.items():
        frame.loc[frame.site == site, name] = to(frame.loc[frame.site == site, name])
    frame.to_parquet(path)


def flat(layers: int = 3) -> World:
    """Every layer alike, every magnitude within 0.01 % of the next: no tail, nothing for alpha to do."""
    rng = np.random.default_rng(0)
    pre = [3 + 1e-4 * rng.random(400) for _ in range(8)]
    out = [p / (1 + np.exp(-p)) for p in pre]
    return World({(i, f"x_conv_{s}"): v for i in range(layers) for s, v in (("pre", pre), ("out", out))})


def test_alpha_acts_on_one_path_and_is_dead_on_the_other(replies: list[Reply], directory: Path) -> None:
    reply = replies[ACTS]
    moved = table(directory / "t0.99999").scale / table(directory / "t0.9995").scale - 1
    assert reply.verdict == FAILS
    assert f"{100 * moved.min():+.2f} ±" in reply.text
    assert f"{100 * moved.max():+.2f} ±" in reply.text
    assert f"in layer {moved.idxmax()}" in reply.text
    assert "the path that the seed swept" in reply.text
    assert "alpha is dead. The clip is the largest magnitude in" in reply.text
    assert "0.9995, 0.99999 differ in not one bit" in reply.text
    rows = 2 * len(pd.read_parquet(directory / "gmax0.9995" / "scales.parquet"))
    assert f"{rows} of {rows} rows" in reply.text


def test_a_grouped_path_that_reads_alpha_is_not_called_dead_in_silence(tmp_path: Path, world: World) -> None:
    study(tmp_path / "s", world)
    change(tmp_path / "s" / "gmax0.99999", scale=lambda s: 1.01 * s, clip=lambda s: 1.01 * s)
    text = asked(tmp_path)[ACTS].text
    assert "DIFFER" in text
    rows = 2 * len(pd.read_parquet(tmp_path / "s" / "gmax0.9995" / "scales.parquet"))
    assert f"{rows - 4 * 16} of {rows} rows" in text


def test_where_alpha_does_nothing_the_seed_is_right(tmp_path: Path) -> None:
    replies = asked(study(tmp_path, flat()))
    assert replies[ACTS].verdict == HOLDS
    assert replies[TAIL].verdict == HOLDS
    assert replies[LAYERS].verdict == FAILS  # layers are alike
    assert replies[ADVICE].verdict == HOLDS  # 0.9995 is as good as any


def test_the_tail(replies: list[Reply], directory: Path) -> None:
    reply = replies[TAIL]
    factor = table(directory / "t0.99999")["clip"] / table(directory / "t0.995")["clip"]
    assert reply.verdict == FAILS
    assert f"{factor.min():.2f} to {factor.max():.2f} times" in reply.text
    (shown,) = reply.tables
    assert shown.frame()["factor"].tolist() == pytest.approx(factor.tolist())
    assert shown.frame()["largest"].tolist() == pytest.approx(table(directory / "tmax").absmax.tolist())


def test_size_needs_several_models(replies: list[Reply], directory: Path, tmp_path: Path) -> None:
    assert replies[SIZES].verdict == OPEN
    large = mamba(layers=6, size=500, seed=5, model="2.7b")
    for values in large.values.values():
        values[:] = [3 * v for v in values]
    for (layer, site), values in large.values.items():
        if site.endswith("_out") and "conv" in site:
            pre = large.values[layer, site.replace("out", "pre")]
            values[:] = [p / (1 + np.exp(-p)) for p in pre]
    study(tmp_path / "large", large, grouped=False)
    reply = asked(directory, tmp_path / "large")[SIZES]
    assert reply.verdict == PARTLY
    assert "From tiny to 2.7b" in reply.text
    means = [table(p / "t0.9995") for p in (directory, tmp_path / "large")]
    for column in ("ratio", "silu_gain"):
        assert f"from {means[0][column].mean():.2f} to {means[1][column].mean():.2f}" in reply.text
    assert "SiLU expands in no model" in reply.text


def test_silu_and_the_ratio(replies: list[Reply], directory: Path) -> None:
    reply = replies[EXPANDS]
    assert reply.verdict == FAILS
    top = table(directory / "t0.9995").sort_values("ratio").iloc[-1]
    assert f"= ratio {top.ratio:.2f};" in reply.text
    assert f"= gain {top.silu_gain:.3f}" in reply.text
    assert top.silu_gain == pytest.approx(
        top.scale / table(directory / "t0.9995", "x_conv_pre").loc[top.name].scale, abs=1e-9
    )


def test_a_gain_above_one_is_reported(tmp_path: Path, world: World) -> None:
    study(tmp_path / "s", world)
    change(tmp_path / "s" / "t0.995", silu_gain=lambda g: 0 * g + 1.5)
    reply = asked(tmp_path)[EXPANDS]
    assert reply.verdict == HOLDS
    assert "no quantile can do that" in reply.text
    assert "gain above 1 in 4 of" in reply.text


def test_layers(replies: list[Reply], directory: Path) -> None:
    scale = table(directory / "t0.9995").scale
    spread = scale.max() / scale.min()
    assert replies[LAYERS].verdict == REASON
    assert f"differs {spread:.2f} times" in replies[LAYERS].text
    assert f"about {20 * np.log10(spread):.1f} dB" in replies[LAYERS].text


def test_minmax_loses_to_a_percentile_only_where_outliers_are_rare(
    replies: list[Reply], directory: Path, tmp_path: Path
) -> None:
    """In 4 bits one value of 10 among 4000 within [-1, 1] costs more to keep than to clip; heavy tails in 8 do not."""
    rng = np.random.default_rng(1)
    values = [np.append(rng.uniform(-1, 1, 3999), 10.0) for _ in range(8)]
    rare = World({(i, "x_conv_out"): values for i in range(2)} | {(i, "x_conv_pre"): values for i in range(2)})
    write(tmp_path / "max", rare, method="minmax", format="int4")
    write(tmp_path / "g", rare, method="minmax", format="int4", grid=(2, 2))
    for alpha in (0.9995, 0.99999):
        write(tmp_path / f"{alpha}", rare, alpha=alpha, format="int4")
    wild = asked(tmp_path)[MINMAX]
    assert wild.verdict == HOLDS
    assert "so percentile is better" in wild.text
    assert replies[MINMAX].verdict == FAILS
    assert "so MinMax is better" in replies[MINMAX].text
    db = (table(directory / "t0.9995").sqnr_db - table(directory / "tmax").sqnr_db).mean()
    assert f"{db:+.2f} ±".replace("-", "−") in replies[MINMAX].text


def test_minmax_of_groups_has_no_sqnr_and_alpha_one_has(tmp_path: Path, world: World) -> None:
    """As real cells are: the channel maxima, which minmax of groups is read off, tell no SQNR."""
    study(tmp_path / "s", world)
    shutil.rmtree(tmp_path / "s" / "gmax0.99999")
    nothing = {"sqnr_db": lambda v: np.nan * v}
    change(tmp_path / "s" / "gmax0.9995", **nothing, mse=lambda v: np.nan * v)
    change(tmp_path / "s" / "gmax0.9995", "replicates", **nothing)
    found = answer(load(tmp_path))
    assert "groups: MinMax's scale of x_conv_out is" in found.seed[MINMAX].text
    assert "not known (alpha=1.0 may tell)" in found.seed[MINMAX].text
    assert "nan" not in " ".join(r.text for r in found.seed)
    advice = next(a for a in found.advice if a.context.endswith("group4x4"))
    assert advice.unranked == ("minmax",)
    assert {r.setting for r in advice.runners} == {"percentile 0.9995", "percentile 0.99999"}
    verdict = next(v for v in found.verdicts if v.contrast.knob == "granularity" and "minmax" in v.contrast.context)
    assert verdict.verdict == "unresolved"  # the scales moved: that is not `no effect`
    write(tmp_path / "s" / "gmax1", world, alpha=1.0, grid=(4, 4))
    assert "may tell" not in asked(tmp_path)[MINMAX].text


def test_shape(replies: list[Reply], world: World, tmp_path: Path) -> None:
    assert replies[SHAPE].verdict == ANSWERED
    assert "shape (1, 4, 4), 16 scales per layer for 128 channels" in replies[SHAPE].text
    assert "8 channels to a scale" in replies[SHAPE].text
    write(tmp_path / "g", world, method="minmax", grid=(2, 3))
    for alpha in (0.9995, 0.99999):
        write(tmp_path / str(alpha), world, alpha=alpha)
    assert "shape (1, 2, 3), 6 scales" in asked(tmp_path)[SHAPE].text


def test_advice_is_that_of_the_report(directory: Path, replies: list[Reply]) -> None:
    found = answer(load(directory))
    (mine,) = (a for a in found.advice if a.context == "tiny · int8 · tensor")
    seeds = next(r for r in mine.runners if r.setting == "percentile 0.9995")
    assert f"{mine.context}: {mine.best.setting}, mean SQNR {mine.best.sqnr_db:.2f} dB" in replies[ADVICE].text
    assert f"percentile 0.9995 −{seeds.loss_db:.2f} ±" in replies[ADVICE].text
    assert replies[ADVICE].verdict == FAILS
    assert not seeds.tied


def test_what_was_not_measured(replies: list[Reply], world: World, tmp_path: Path) -> None:
    assert replies[UNMEASURED].verdict == STILL
    assert "Perplexity was not measured in any" in replies[UNMEASURED].text
    assert "130m, 2.7b, 8b" in replies[UNMEASURED].text
    loud = World(world.values, model="8b", weights="random")
    text = asked(study(tmp_path, loud, evaluation={"perplexity": 9.0}))[UNMEASURED].text
    assert "measured in 3 of 8 cells" in text
    assert "not here: 130m, 2.7b;" in text
    assert "Random weights: 8b" in text


def test_a_part_without_its_cells_is_not_answered(directory: Path, tmp_path: Path) -> None:
    shutil.copytree(directory, tmp_path / "s")
    for name in ("t0.995", "tmax", "g0.9995", "g0.99999", "gmax0.9995", "gmax0.99999"):
        shutil.rmtree(tmp_path / "s" / name)
    assert asked(tmp_path) == []  # two alphas of one model are no such study
    write(tmp_path / "s" / "g", mamba(layers=4, size=800), grid=(4, 4))
    replies = asked(tmp_path)
    assert "grouped path: not answered; needs method=minmax granularity=group" in replies[ACTS].text
    assert "99.5 % quantile is not among these cells" in replies[TAIL].text
    assert replies[MINMAX].verdict == OPEN


def test_every_output_has_the_questions_in_order(
    compare: Callable[..., Done], directory: Path, replies: list[Reply], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    done = compare(str(directory), "--html", str(page), "--explain")
    assert done.code == 0, done.err
    markdown = compare(str(directory), "--format", "markdown", "--no-html").out
    for text in (done.out, page.read_text(), markdown):
        shown = [r for r in replies if text is not done.out or r.verdict != OPEN]  # the terminal only counts those
        places = [text.index(r.question.split("(")[0]) for r in shown]
        assert places == sorted(places)
    assert "--explain says which and why" in compare(str(directory), "--no-html").out
    found = json.loads(compare(str(directory), "--format", "json", "--no-html").out)
    assert [q["answer"] for q in found["questions"]] == [r.text for r in replies]
    known = set(found["tables"]) | {"difference-scale", "histogram", "gain", "scales", "sqnr-alpha", "groups", "sizes"}
    assert {name for q in found["questions"] for name in q["evidence"]} <= known


def test_the_experiment_folds_what_alpha_cannot_change() -> None:
    done = command(ROOT, "sweep", "-m", "experiment=seed", "hydra.sweeper.dry_run=true")
    assert done.returncode == 0, done.stderr
    assert "minmax ignores alpha: 8 cells are 2" in done.stdout
    for cell in ("minmax int8 tensor", "minmax int8 group", "a=0.9995 int8 tensor", "a=0.99999 int8 group"):
        assert f"tiny {cell}" in done.stdout or f"tiny percentile {cell}" in done.stdout
