"""What verdicts rest on, each number by hand: which sites count, errors, degrees of freedom, weights, tolerances."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from synthetic import World, jackknife, write

from sweep.compare import load
from sweep.compare.analysis.convergence import ENOUGH, convergence
from sweep.compare.analysis.differences import evidence
from sweep.compare.analysis.layer_choice import choices
from sweep.compare.analysis.recommend import recommend
from sweep.compare.analysis.rules import MATTERS
from sweep.compare.analysis.significance import FAMILY, freedom, quantile
from sweep.compare.analysis.silu_gain import TOLERANCE, silu
from sweep.compare.analysis.verdicts import verdicts
from sweep.compare.answer import answer
from sweep.compare.render import sentences
from sweep.core.files import write_json
from sweep.evaluation.scores import Scores
from sweep.runs.record import content

SITES = ("x_conv_in", "x_conv_pre", "x_conv_out")


def world(sites: dict[int, tuple[str, ...]], seed: int = 0, tokens: str = "a" * 64) -> World:
    rng = np.random.default_rng(seed)
    values = {(layer, s): [rng.normal(size=200) for _ in range(8)] for layer, here in sites.items() for s in here}
    return World(values, tokens=tokens)


def change(path: Path, name: str, how: Callable[[pd.DataFrame], None]) -> None:
    table = pd.read_parquet(path / f"{name}.parquet")
    how(table)
    table.to_parquet(path / f"{name}.parquet")


def two(root: Path, sites: dict[int, tuple[str, ...]], effect: Callable[[pd.DataFrame], object]) -> tuple[Path, Path]:
    """Two alphas, one calibration: 0.9 has the SQNR of 0.9995 plus what `effect` says, and a larger scale."""
    first = write(root / "a", world(sites), alpha=0.9995)
    second = write(root / "b", world(sites), alpha=0.9)
    base = {name: pd.read_parquet(first / f"{name}.parquet") for name in ("scales", "replicates")}

    def louder(table: pd.DataFrame) -> None:
        other = base["replicates" if "fold" in table else "scales"]
        table["scale"] = other["scale"] * 1.1
        table["sqnr_db"] = other["sqnr_db"] + effect(table)

    change(second, "scales", louder)
    change(second, "replicates", louder)
    return first, second


def test_only_quantized_sites_count_in_the_mean(tmp_path: Path) -> None:
    two(tmp_path, {0: SITES}, lambda t: t.site.map({"x_conv_in": 1.0, "x_conv_pre": 100.0, "x_conv_out": 3.0}))
    (e,) = evidence(load(tmp_path), [(1, 0)], [True])
    assert e.overall[0] == pytest.approx(2.0)
    assert dict(zip(e.means.site, e.means.sqnr, strict=True))["x_conv_pre"] == pytest.approx(100.0)


def test_p_is_students_with_the_freedom_of_the_folds(tmp_path: Path) -> None:
    wobble = np.array([1.0, -1, 2, -2, 1, -1, 0, 0]) / 10

    two(tmp_path, {0: ("x_conv_in",)}, lambda t: 1.0 + (wobble[t.fold] if "fold" in t else 0.0))
    (e,) = evidence(load(tmp_path), [(1, 0)], [False])
    t = 1.0 / jackknife(wobble)
    assert e.rows.p[0] == pytest.approx(2 * stats.t.sf(t, freedom(8)), rel=1e-6)
    assert e.folds == 8


def test_folds_too_coarse_to_tell_an_error_alarm_nobody(tmp_path: Path) -> None:
    """Two calibrations, every fold of each says the same (as 16-bit values may), one step apart: no effect."""
    for name, step, letter in (("a", 1.0, "a"), ("b", 1.05, "b")):
        path = write(tmp_path / name, world({0: ("x_conv_in",)}, tokens=letter * 64), alpha=0.9)
        for table in ("scales", "replicates"):
            change(path, table, lambda t, step=step: t.update(t.assign(scale=step, sqnr_db=30 + step)))
    (v,) = (v for v in verdicts(load(tmp_path)) if v.contrast.knob == "data")
    assert v.verdict != MATTERS
    assert v.evidence[0].rows.p.tolist() == [1.0]


def test_an_independent_difference_has_the_errors_of_both(tmp_path: Path) -> None:
    for seed, letter in enumerate("ab"):
        write(tmp_path / letter, world({0: ("x_conv_in",)}, seed, letter * 64), alpha=0.9)
    (e,) = evidence(load(tmp_path), [(0, 1)], [True])
    errors = [
        jackknife(pd.read_parquet(tmp_path / letter / "replicates.parquet").sqnr_db.to_numpy()) for letter in "ab"
    ]
    assert not e.paired
    assert e.rows.sqnr_se[0] == pytest.approx(np.hypot(*errors))


def test_drift_is_from_half_of_the_folds_to_all(tmp_path: Path) -> None:
    path = write(tmp_path / "a", world({0: ("x_conv_in",)}), alpha=0.9)

    def grow(t: pd.DataFrame) -> None:
        t["scale"] = [1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 3.0]
        t["scale_se"] = 0.03

    change(path, "convergence", grow)
    (c,) = convergence(load(tmp_path), [0])
    assert c.drift == pytest.approx(3.0 / 2.0 - 1)
    assert c.samples == 8 * 64  # those of the last row, which holds all
    assert c.error == pytest.approx(0.01 * quantile(0.95, freedom(8)))
    assert c.open_rows == int(c.error > ENOUGH)


def test_convergence_of_a_cell_by_hand(tmp_path: Path) -> None:
    """Two cells of two rows; the first has one fold and tells nothing. Of the other the error is largest at one place,
    the drift at another, and one row of the two is open."""
    for name, alpha in (("a", 0.9), ("b", 0.9995)):
        path = write(tmp_path / name, world({0: ("x_conv_in",), 3: ("out_proj_in",)}), alpha=alpha)

        def grow(t: pd.DataFrame) -> None:
            first = t.site == "x_conv_in"
            t["scale"] = np.where(first, 1.0, np.where(t.folds == 4, 1.6, 2.0))
            t["scale_se"] = np.where(first, 0.03, 0.0001)

        change(path, "convergence", grow)
    table = pd.read_parquet(tmp_path / "a" / "convergence.parquet")
    table[table.folds == 1].to_parquet(tmp_path / "a" / "convergence.parquet")
    runs = load(tmp_path)
    (c,) = convergence(runs, [0, 1])
    t = quantile(0.95, freedom(8))
    assert runs.listed[c.cell].asked_alpha == 0.9995
    assert (c.samples, c.folds, c.rows, c.open_rows, c.enough) == (8 * 64, 8, 2, 1, False)
    assert (c.worst_layer, c.worst_site, c.drift_layer, c.drift_site) == (0, "x_conv_in", 3, "out_proj_in")
    assert c.worst_error == pytest.approx(0.03 * t)
    assert c.error == pytest.approx((0.03 + 0.00005) / 2 * t)
    assert c.drift == pytest.approx(0.25)
    assert [one.cell for one in convergence(runs, [c.cell])] == [c.cell]
    assert convergence(runs, [1 - c.cell]) == []


def test_copies_are_no_samples(tmp_path: Path) -> None:
    path = write(tmp_path / "a", world({0: ("x_conv_in",)}), alpha=0.9)
    record = content(path)
    write_json(path / "run.json", record | {"tokens": record["tokens"] | {"distinct": 3}})
    a = answer(load(tmp_path))
    assert a.convergence[0].samples == 3
    assert a.notes == [
        "only 3 of the samples 512 x 128 are distinct, the others are copies: errors count distinct ones"
    ]


def test_a_loss_weighs_layers_by_their_sites(tmp_path: Path) -> None:
    """0.9 wins by 1 dB at both sites of layer 0, 0.9995 by 4 dB at the one of layer 1: means 2/3 and 4/3."""
    sites = {0: ("x_conv_in", "out_proj_in"), 1: ("x_conv_in",)}
    two(tmp_path, sites, lambda t: np.where(t.layer == 0, 1.0, -4.0))
    (one,) = recommend(runs := load(tmp_path))
    assert one.best.setting == "percentile 0.9995"
    assert one.runners[1].loss_db == pytest.approx(2 / 3)
    by_layer = choices(runs, one)
    assert by_layer.layer_loss_db == pytest.approx((2 * 1.0 + 1 * 0.0) / 3)
    assert by_layer.site_loss_db == pytest.approx((2 * 1.0 + 1 * 0.0) / 3)


def test_every_site_has_a_best_setting_of_its_own(tmp_path: Path) -> None:
    """In layer 0 0.9 wins 3 dB at one site and loses 1 at the other, in layer 1 it loses 4: by layer (2 * 1 + 0) / 3
    are lost with 0.9995 everywhere, by site (3 + 0 + 0) / 3."""
    sites = {0: ("x_conv_in", "out_proj_in"), 1: ("x_conv_in",)}
    two(tmp_path, sites, lambda t: np.where(t.layer == 1, -4.0, np.where(t.site == "x_conv_in", 3.0, -1.0)))
    (one,) = recommend(runs := load(tmp_path))
    assert one.best.setting == "percentile 0.9995"
    by_layer = choices(runs, one)
    assert by_layer.layer_loss_db == pytest.approx(2 / 3)
    assert by_layer.site_loss_db == pytest.approx(1.0)


def test_what_has_no_error_is_not_called_worse(tmp_path: Path) -> None:
    for path in two(tmp_path, {0: ("x_conv_in",)}, lambda t: -2.0):
        (path / "replicates.parquet").unlink()
    (one,) = recommend(load(tmp_path))
    assert one.runners[1].loss_db == pytest.approx(2.0)
    assert one.runners[1].tied


@pytest.mark.parametrize(("factor", "word"), [(0.95, "within"), (1.05, "beyond")])
def test_perplexity_is_beyond_its_error_at_the_level_of_its_family(tmp_path: Path, factor: float, word: str) -> None:
    texts, tokens, rng = 30, np.full(30, 100), np.random.default_rng(0)
    base = rng.normal(150.0, 40.0, texts)
    noise = rng.normal(size=texts)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    t = stats.t.ppf(1 - FAMILY / 2, texts - 1) * factor

    def nll(shift: float) -> np.ndarray:
        return base + 0.001 * noise + shift

    for alpha, scores in ((0.9995, base), (0.9, nll(0.001 * t / np.sqrt(texts)))):
        s = Scores(tokens, tokens, scores, base, np.ones(texts), tokens)
        record = s.summary() | {"tokens": {"sha256": "a"}}
        path = write(tmp_path / str(alpha), world({0: ("x_conv_in",)}), alpha=alpha, evaluation=record)
        pq.write_table(s.table().add_column(0, "quantized", pa.array(["all"] * texts)), path / "evaluation.parquet")
    (v,) = answer(load(tmp_path)).verdicts
    (p,) = (p for p in v.perplexity if p.value == "0.9")
    assert p.beyond == (word == "beyond")
    assert f"{word} its error." in sentences.verdict(v)


@pytest.mark.parametrize(("excess", "holds"), [(0.9e-3, True), (1.1e-3, False)])
def test_the_theorem_of_silu_allows_the_width_of_a_bin(tmp_path: Path, excess: float, holds: bool) -> None:
    path = write(tmp_path / "a", world({0: SITES}), alpha=0.9)
    change(path, "scales", lambda t: t.update(t.assign(silu_gain=t.silu_gain.where(t.silu_gain.isna(), 1 + excess))))
    (s,) = silu(load(tmp_path))
    assert s.holds is holds
    assert pytest.approx(2**-10, rel=0.03) == TOLERANCE


def test_the_theorem_of_silu_binds_quantiles_alone() -> None:
    asked: list[list[int]] = []

    def source(name: str, numbers: list[int]) -> None:
        asked.append(numbers)

    methods = ("percentile", "mse", "minmax", "entropy", "percentile_ema", "loss")
    runs = SimpleNamespace(listed=[SimpleNamespace(method=m) for m in methods], source=source)
    assert silu(runs) == []  # type: ignore[arg-type]
    assert silu(runs, [1, 2, 3]) == []  # type: ignore[arg-type]
    assert asked == [[0, 2, 4], [2]]
