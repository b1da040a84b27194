"""Verdicts on runs whose truth is known: dead, below the noise, negligible, above the noise, unknowable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import World, jackknife, mamba, write

from sweep.compare import Comparison, load
from sweep.compare.analysis.contrasts import contrasts
from sweep.compare.analysis.differences import evidence
from sweep.compare.analysis.layer_choice import choices
from sweep.compare.analysis.recommend import recommend
from sweep.compare.analysis.rules import DEAD, MATTERS, NEGLIGIBLE, NOISE, UNEXAMINED, UNRESOLVED
from sweep.compare.analysis.significance import FAMILY
from sweep.compare.analysis.verdicts import Verdict, verdicts
from sweep.compare.answer import answer, headlines
from sweep.compare.render import sentences
from sweep.core.errors import UsageError
from sweep.evaluation.scores import Scores


def of(runs: Comparison, knob: str, context: str = "") -> Verdict:
    return next(v for v in verdicts(runs) if v.contrast.knob == knob and context in v.contrast.context)


def test_a_dead_knob_is_called_dead(runs: Comparison) -> None:
    v = of(runs, "alpha", "minmax")
    assert v.verdict == DEAD
    assert "bit for bit" in sentences.verdict(v)


def test_one_bit_is_not_dead(tmp_path: Path) -> None:
    world = mamba(layers=1, size=60)
    for alpha in (0.9995, 0.99999):
        write(tmp_path / str(alpha), world, method="minmax", alpha=alpha)
    path = tmp_path / "0.9995" / "scales.parquet"
    table = pd.read_parquet(path)
    table.loc[3, "scale"] = np.nextafter(table.loc[3, "scale"], 1.0)
    table.to_parquet(path)
    assert of(load(tmp_path), "alpha").verdict != DEAD


def test_an_effect_above_the_noise_matters(runs: Comparison) -> None:
    v = of(runs, "alpha", "percentile")
    assert v.verdict == MATTERS
    assert v.paired
    assert v.row is not None
    assert v.mean is not None
    assert v.mean.p <= FAMILY
    assert abs(v.row.db) >= 0.1
    # the largest effect that counts is what a look at the tables finds
    table = runs.scales().query("format == 'int8' and granularity == 'tensor'")
    a, b = table[table.alpha == 0.99], table[table.alpha == 0.9995]
    both = a.merge(b, on=["layer", "site"], suffixes=("", "_base"))
    at = both[(both.layer == v.row.layer) & (both.site == v.row.site)].iloc[0]
    assert v.row.value == "0.99"
    assert v.row.db == pytest.approx(at.sqnr_db - at.sqnr_db_base)
    assert v.row.scale == pytest.approx(at.scale / at.scale_base - 1)


def test_the_noise_of_two_calibrations_is_no_effect(tmp_path: Path) -> None:
    """Different text, nothing else: scales and SQNR differ in every row, and no verdict may come of it."""
    for seed in range(2):
        world = mamba(layers=12, seed=seed, tokens=f"{seed}" * 64)
        write(tmp_path / str(seed), world, alpha=0.99)
    runs = load(tmp_path)
    v = of(runs, "data")
    assert v.verdict in (NOISE, UNRESOLVED)
    assert v.counted == 0
    assert not v.paired
    assert v.tests == 12 * 11
    assert "independent" in sentences.verdict(v)
    uncorrected = np.concatenate([e.rows.p for e in v.evidence])
    assert (uncorrected > 0.025).mean() > 0.9  # the null is a null


def test_no_false_alarm_in_many_null_sweeps(tmp_path: Path) -> None:
    alarms = 0
    for seed in range(12):
        for part in range(2):
            world = mamba(layers=3, size=200, seed=100 * seed + part, tokens=f"{part}" * 64)
            write(tmp_path / str(seed) / str(part), world, alpha=0.95)
        alarms += of(load(tmp_path / str(seed)), "data").verdict == MATTERS
    assert alarms <= 2  # 5 % of 12 is less than one


def test_real_but_negligible(tmp_path: Path) -> None:
    """Every scale moved by 0.05 % with no noise at all: real, and worth 0.00 dB."""
    world = mamba(layers=3)
    write(tmp_path / "a", world, method="percentile", alpha=0.9995)
    write(tmp_path / "b", world, method="percentile", alpha=0.9996, factor=1.0)
    same = pd.read_parquet(tmp_path / "a" / "scales.parquet")
    reps = pd.read_parquet(tmp_path / "a" / "replicates.parquet")
    same["scale"] *= 1.0005
    same["sqnr_db"] -= 0.004
    reps["scale"] *= 1.0005
    reps["sqnr_db"] -= 0.004 + 1e-5 * np.random.default_rng(0).normal(size=len(reps))
    same.to_parquet(tmp_path / "b" / "scales.parquet")
    reps.to_parquet(tmp_path / "b" / "replicates.parquet")
    v = of(load(tmp_path), "alpha")
    assert v.verdict == NEGLIGIBLE
    assert v.bound < 0.1
    assert "0.05%" in sentences.verdict(v)


def test_without_replicates_nothing_is_claimed(tmp_path: Path) -> None:
    world = mamba(layers=1, size=200)
    for alpha in (0.9, 0.9995):
        (write(tmp_path / str(alpha), world, alpha=alpha) / "replicates.parquet").unlink()
    v = of(load(tmp_path), "alpha")
    assert v.verdict == UNRESOLVED
    assert "no replicates" in sentences.verdict(v)


def test_paired_errors_are_the_jackknife_of_the_differences(runs: Comparison) -> None:
    cells = [i for i, c in enumerate(runs.listed) if c.setting in ("percentile 0.99", "percentile 0.9999")]
    (e,) = evidence(runs, [(cells[0], cells[1])], [True])
    a, b = (
        pd.read_parquet(runs.listed[i].path / "replicates.parquet").set_index(["layer", "site", "fold"]).sort_index()
        for i in cells
    )
    difference = (b.sqnr_db - a.sqnr_db).loc[2, "B_conv_in"].to_numpy()
    row = np.flatnonzero((e.rows.layer == 2) & (e.rows.site == "B_conv_in"))[0]
    assert e.rows.sqnr_se[row] == pytest.approx(jackknife(difference))
    means = (b.sqnr_db - a.sqnr_db).xs("B_conv_in", level="site").groupby("fold").mean().to_numpy()
    site = list(e.means.site).index("B_conv_in")
    assert e.means.sqnr_se[site] == pytest.approx(jackknife(means))
    scale = np.log(b.scale / a.scale).loc[2, "B_conv_in"].to_numpy()
    assert e.rows.scale_se[row] == pytest.approx(jackknife(scale))


def test_pairing_sees_what_independent_errors_miss(tmp_path: Path) -> None:
    """The same effect, once with a shared calibration, once with folds that have nothing in common."""
    for i, alpha in enumerate((0.999, 0.9995)):
        write(tmp_path / "paired" / str(i), mamba(layers=4, size=800), alpha=alpha)
        write(tmp_path / "apart" / str(i), mamba(layers=4, size=800, model=f"m{i}"), alpha=alpha)
    paired = evidence(load(tmp_path / "paired"), [(0, 1)], [True])[0]
    apart = evidence(load(tmp_path / "apart"), [(0, 1)], [True])[0]
    assert paired.paired
    assert not apart.paired
    assert np.nanmedian(apart.rows.scale_se / paired.rows.scale_se) > 1.2


def test_a_knob_that_acts_at_one_site_only(tmp_path: Path) -> None:
    world = mamba(layers=4, size=2000)
    write(tmp_path / "tensor", world, alpha=0.95)
    write(tmp_path / "grouped", world, alpha=0.95, grid=(2, 2))
    runs = load(tmp_path)
    v = of(runs, "granularity")
    assert v.verdict == MATTERS
    assert set(v.silent) == set(runs.sites) - {"x_conv_out"}
    assert "It acts only at x_conv_out." in sentences.verdict(v)


def test_repeated_cells(tmp_path: Path) -> None:
    world = mamba(layers=1, size=100)
    write(tmp_path / "a", world)
    write(tmp_path / "b", world)
    a = answer(load(tmp_path))
    assert a.notes == ["1 cell was run more than once and agrees bit for bit"]
    assert not a.verdicts  # reproducibility is no knob, and no dead one
    write(tmp_path / "c", mamba(layers=1, size=100, seed=1))
    assert "3 runs" in answer(load(tmp_path)).notes[0]
    assert "do not agree" in answer(load(tmp_path)).notes[0]


def test_baselines(runs: Comparison, demo: Path) -> None:
    def base(text: str | None) -> str:
        q = next(q for q in contrasts(runs.listed, text) if q.knob == "alpha" and "percentile" in q.context)
        return q.values[q.baseline]

    assert base(None) == "0.9995"
    assert base("alpha=0.99") == "0.99"
    assert base("alpha=0.9999,method=percentile") == "0.9999"
    assert base("alpha=0.9999,method=percentile/".rstrip("/")) == "0.9999"
    assert base(str(demo / "alpha=0.99,method=percentile")) == "0.99"
    for wrong in ("alpha=0.3", "colour=red", "alpha=x", "no such cell"):
        with pytest.raises(UsageError, match="baseline"):
            base(wrong)


def test_recommendation_is_the_best_mean(runs: Comparison) -> None:
    advice = next(a for a in recommend(runs) if a.context == "tiny · int8 · tensor")
    scales = runs.scales()
    mine = scales[scales.label.str.contains("int8 · tensor") & ~scales.site.str.endswith("_pre")]
    means = mine.groupby("label").sqnr_db.mean()
    assert advice.best.setting in means.idxmax()
    assert advice.best.sqnr_db == pytest.approx(means.max())
    by_layer = mine.groupby(["layer", "label"]).sqnr_db.mean().unstack()
    best = by_layer[means.idxmax()]
    by_setting = choices(runs, advice)
    assert [c.loss_db for c in by_setting.layers] == pytest.approx((by_layer.max(axis=1) - best).tolist())
    by_place = mine.groupby(["layer", "site", "label"]).sqnr_db.mean().unstack()
    assert by_setting.site_loss_db == pytest.approx((by_place.max(axis=1) - by_place[means.idxmax()]).mean())


def test_what_was_not_measured_is_said(runs: Comparison, tmp_path: Path) -> None:
    assert headlines(answer(runs))[-1] == "Not measured: KL and perplexity."
    world = mamba(layers=1, size=200)
    for alpha, ppl in ((0.9, 9.5), (0.9995, 8.0)):
        write(
            tmp_path / str(alpha), world, alpha=alpha, evaluation={"perplexity": ppl, "perplexity_se": 0.1, "kl": 0.1}
        )
    a = answer(load(tmp_path))
    assert not any("Not measured" in text for text in headlines(a))
    assert "+1.50 ± 0.14 with 0.9, beyond" in sentences.verdict(a.verdicts[0])
    assert a.advice[0].perplexity is not None
    assert a.runs.listed[a.advice[0].perplexity.best].setting == "percentile 0.9995"


def test_perplexity_is_compared_text_by_text(tmp_path: Path) -> None:
    world, rng = mamba(layers=1, size=200), np.random.default_rng(0)
    tokens, hard = np.full(30, 100), rng.normal(150.0, 40.0, 30)  # texts differ far more than the cells do

    def evaluated(alpha: float, loss: float, text: str = "a") -> np.ndarray:
        nll = hard + rng.normal(loss, 0.1, 30)
        s = Scores(tokens, tokens, nll, hard, np.ones(30), tokens)
        record = s.summary() | {"tokens": {"sha256": text}}
        table = s.table().add_column(0, "quantized", pa.array(["all"] * 30))
        pq.write_table(
            table, write(tmp_path / str(alpha), world, alpha=alpha, evaluation=record) / "evaluation.parquet"
        )
        return nll

    base, other = evaluated(0.9995, 0.0), evaluated(0.9, 1.0)
    evaluated(0.99, 5.0, text="b")  # on another text: nothing is to be said of it
    (v,) = answer(load(tmp_path)).verdicts
    (row,) = [p for p in v.perplexity if p.value == "0.9"]
    per_text = np.exp(other.sum() / 3000) * other / 100 - np.exp(base.sum() / 3000) * base / 100
    assert row.se == pytest.approx(per_text.std(ddof=1) / np.sqrt(30), rel=1e-6)
    assert row.texts == 30
    assert [p.value for p in v.perplexity] == ["0.9", "0.9995"]
    assert "beyond its error." in sentences.verdict(v)
    (tmp_path / "0.9" / "evaluation.parquet").unlink()
    (v,) = answer(load(tmp_path)).verdicts
    assert "within its error (taken as independent" in sentences.verdict(v)


def test_silu_gain_and_ratio_are_kept_apart(runs: Comparison) -> None:
    a = answer(runs)
    assert not any("SiLU" in t for t in headlines(a))  # nobody asked
    (text,) = sentences.silu(a.silu)
    assert "never expands" in text
    assert "shows no expansion in any" in text
    x = next(s for s in a.silu if s.site == "x_conv_out")
    assert x.holds
    assert x.ratio_high > 1 >= x.gain_high


def test_a_gain_above_one_is_called_impossible(tmp_path: Path) -> None:
    path = write(tmp_path / "a", mamba(layers=1, size=100)) / "scales.parquet"
    table = pd.read_parquet(path)
    table["silu_gain"] = table.silu_gain.where(table.site != "x_conv_out", 1.3)
    table.to_parquet(path)
    assert any("inconsistent" in text for text in answer(load(tmp_path)).notes)


def test_does_more_data_help(tmp_path: Path) -> None:
    few = write(tmp_path / "few", mamba(layers=2, size=100), alpha=0.99)
    answer_few = answer(load(few)).convergence[0]
    assert not answer_few.enough
    assert answer_few.needed > answer_few.samples
    flat = World({(0, "x_conv_in"): [np.tile(np.linspace(-1, 1, 2001), 3)] * 8})
    assert answer(load(write(tmp_path / "flat", flat, alpha=0.9))).convergence[0].enough


def test_of_many_pairs_only_the_largest_are_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.compare.analysis.verdicts.PAIRS", 2)
    monkeypatch.setattr("sweep.compare.analysis.verdicts.TOP", 2)
    world = mamba(layers=1, size=100)
    for alpha in (0.5, 0.9, 0.99):
        write(tmp_path / f"p{alpha}", world, alpha=alpha)
        write(tmp_path / f"m{alpha}", world, method="minmax", alpha=alpha)
    kinds = {v.contrast.context: v.verdict for v in verdicts(load(tmp_path)) if v.contrast.knob == "alpha"}
    assert kinds["tiny · minmax · int8 · tensor"] == DEAD  # told from the fingerprints
    assert set(kinds.values()) <= {DEAD, MATTERS, UNEXAMINED}
