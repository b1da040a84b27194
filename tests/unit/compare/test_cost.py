"""What cells cost: measured, else predicted, else only SQNR; verdicts and advice follow it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr
from synthetic import jackknife, mamba, write

from sweep.compare import load
from sweep.compare.analysis.agreement import AGREE, DISAGREE, TIED, compare
from sweep.compare.analysis.cost import MEASURED, NEGLIGIBLE_NATS, PREDICTED, SQNR, Costs, Estimate
from sweep.compare.analysis.rules import MATTERS, NEGLIGIBLE
from sweep.compare.answer import answer, headlines
from sweep.compare.render import sentences
from sweep.evaluation.scores import Scores
from sweep.quantization.sites import quantized

WORLD = mamba(layers=2, size=200)


def lossy(path: Path, seed: int, per_row: float, sums: bool = True) -> Path:
    """Gives a cell the columns `loss`, `loss_se` and, in run.json, their sum."""
    rng = np.random.default_rng(seed)
    scales, replicates = (pd.read_parquet(path / f"{name}.parquet") for name in ("scales", "replicates"))
    scales["loss"] = per_row * rng.uniform(0.5, 1.5, len(scales))
    scales["loss_se"] = scales.loss / 10
    whole = scales.set_index(["layer", "site"]).loss
    noise = np.random.default_rng(0).normal(1, 0.01, len(replicates))  # common to all cells: folds are
    replicates["loss"] = [whole[key] for key in zip(replicates.layer, replicates.site, strict=True)] * noise
    scales.to_parquet(path / "scales.parquet")
    replicates.to_parquet(path / "replicates.parquet")
    mine = scales[scales.site.isin(quantized())]
    if sums:
        run = json.loads((path / "run.json").read_text())
        run["loss"] = {"loss": mine.loss.sum(), "loss_se": mine.loss.sum() / 50, "bits": 8.0, "sites": {}, "layers": []}
        (path / "run.json").write_text(json.dumps(run))
    return path


def evaluated(path: Path, kl: float, perplexity: float, seed: int = 0, **options: Any) -> Path:
    """A cell with 30 texts' scores, whose KL and loss are common to all cells but for what is given."""
    rng = np.random.default_rng(7)
    tokens = np.full(30, 100)
    hard = rng.normal(150.0, 40.0, 30)
    own = np.random.default_rng(seed)
    spread = rng.uniform(0.5, 1.5, 30)
    kls = 100 * kl * spread / spread.mean() * own.normal(1, 0.01, 30)
    nll = hard + 100 * (np.log(perplexity) - hard.sum() / 3000) + own.normal(0, 0.1, 30)
    s = Scores(tokens, tokens, nll, hard, kls, tokens)
    record = s.summary() | {"tokens": {"sha256": "t", "samples": 30}, "sites": list(quantized())}
    write(path, WORLD, evaluation=record, **options)
    pq.write_table(s.table().add_column(0, "quantized", pa.array(["all"] * 30)), path / "evaluation.parquet")
    return path


def test_the_best_measure_that_all_share(tmp_path: Path) -> None:
    lossy(evaluated(tmp_path / "a", 0.1, 8.0), 0, 1e-3)
    lossy(evaluated(tmp_path / "b", 0.2, 9.0, alpha=0.99), 1, 2e-3)
    lossy(write(tmp_path / "c", WORLD, alpha=0.9), 2, 3e-3)
    write(tmp_path / "d", WORLD, alpha=0.8)
    runs = load(tmp_path)
    costs = Costs.of(runs)
    at = {cell.path.name: n for n, cell in enumerate(runs.listed)}
    assert costs.kind([at["a"], at["b"]]) == MEASURED
    assert costs.kind([at["a"], at["c"]]) == PREDICTED
    assert costs.kind([at["a"], at["d"]]) == SQNR
    assert costs.kind([]) == SQNR


def test_measured_on_other_text_or_sites_is_not_compared(tmp_path: Path) -> None:
    for name, alpha, change in (("a", 0.9, {}), ("b", 0.99, {"tokens": {"sha256": "u"}}), ("c", 0.8, {"sites": []})):
        path = evaluated(tmp_path / name, 0.1, 8.0, alpha=alpha)
        run = json.loads((path / "run.json").read_text())
        run["evaluation"] |= change
        (path / "run.json").write_text(json.dumps(run))
    costs = Costs.of(load(tmp_path))
    for pair in ((0, 1), (0, 2), (1, 2)):
        assert costs.kind(pair) == SQNR


@pytest.mark.parametrize("sums", [True, False])
def test_predicted_loss_is_that_of_quantized_sites(tmp_path: Path, sums: bool) -> None:
    paths = [lossy(write(tmp_path / str(a), WORLD, alpha=a), i, 1e-3, sums) for i, a in enumerate((0.9, 0.9995))]
    runs = load(tmp_path)
    costs = Costs.of(runs)
    folds = []
    for n, path in enumerate(paths):
        rows = pd.read_parquet(path / "scales.parquet")
        assert costs.predicted[n].value == pytest.approx(rows[rows.site.isin(quantized())].loss.sum())
        left = pd.read_parquet(path / "replicates.parquet")
        folds.append(left[left.site.isin(quantized())].groupby("fold").loss.sum().to_numpy())
    more = costs.differences(PREDICTED, [(0, 1)])[0, 1]
    assert more.value == pytest.approx(costs.predicted[1].value - costs.predicted[0].value)
    assert more.se == pytest.approx(jackknife(folds[1] - folds[0]))
    if not sums:
        assert costs.predicted[0].se == pytest.approx(jackknife(folds[0]))


def test_a_filter_sums_what_it_shows(tmp_path: Path) -> None:
    path = lossy(write(tmp_path / "a", WORLD), 0, 1e-3)
    rows = pd.read_parquet(path / "scales.parquet")
    costs = Costs.of(load(tmp_path, site="x_conv_*", layer=1))
    mine = rows[(rows.layer == 1) & rows.site.isin(["x_conv_in", "x_conv_out"])]
    assert costs.predicted[0].value == pytest.approx(mine.loss.sum())


def test_an_unknown_row_makes_the_sum_unknown(tmp_path: Path) -> None:
    path = lossy(write(tmp_path / "a", WORLD), 0, 1e-3, sums=False)
    rows = pd.read_parquet(path / "scales.parquet")
    rows.loc[rows.site == "out_proj_in", "loss"] = None
    rows.to_parquet(path / "scales.parquet")
    assert not Costs.of(load(tmp_path)).predicted


def test_old_and_new_tables_side_by_side(tmp_path: Path) -> None:
    """Cells from before there were such columns are neither damaged nor in the way."""
    for first in ("a", "z"):
        write(tmp_path / first / "old", WORLD, alpha=0.9)
        lossy(write(tmp_path / first / "new", WORLD, alpha=0.99), 0, 1e-3, sums=False)
        runs = load(tmp_path / first)
        assert len(runs.listed) == 2
        assert runs.scales().loss.isna().sum() == len(runs.scales()) // 2
        assert len(Costs.of(runs).predicted) == 1


def test_differences_of_measured_kl_are_text_by_text(tmp_path: Path) -> None:
    paths = [evaluated(tmp_path / str(a), kl, 8.0, i, alpha=a) for i, (a, kl) in enumerate(((0.9, 0.2), (0.9995, 0.1)))]
    costs = Costs.of(load(tmp_path))
    kls = [pq.read_table(path / "evaluation.parquet")["kl"].to_numpy() / 100 for path in paths]
    more = costs.differences(MEASURED, [(1, 0)])[1, 0]
    assert more.value == pytest.approx(kls[0].mean() - kls[1].mean())
    assert more.se == pytest.approx((kls[0] - kls[1]).std(ddof=1) / np.sqrt(30))
    (paths[0] / "evaluation.parquet").unlink()
    apart = Costs.of(load(tmp_path)).differences(MEASURED, [(1, 0)])[1, 0]
    assert apart.se == pytest.approx(np.hypot(*(kl.std(ddof=1) / np.sqrt(30) for kl in kls)))


def test_advice_follows_the_cost_and_not_the_sqnr(tmp_path: Path) -> None:
    """alpha 0.9995 has by far the better SQNR here and costs more."""
    evaluated(tmp_path / "a", 0.01, 7.0, 0, alpha=0.95)
    evaluated(tmp_path / "b", 0.10, 7.5, 1, alpha=0.9995)
    a = answer(load(tmp_path))
    (one,) = a.advice
    assert one.kind == MEASURED
    assert [r.setting for r in one.runners] == ["percentile 0.95", "percentile 0.9995"]
    assert not one.runners[1].tied
    assert one.agreement is not None
    assert one.agreement.verdict == DISAGREE
    assert one.runners[0].sqnr_db < one.runners[1].sqnr_db
    assert headlines(a)[0].startswith("Take: percentile 0.95 (")
    assert "nats/token, measured KL" in headlines(a)[0]
    (v,) = a.verdicts
    assert v.verdict == MATTERS
    assert v.kind == MEASURED
    assert "By measured KL" in sentences.verdict(v) or "measured KL −" in sentences.verdict(v)


def test_without_a_cost_nothing_is_to_be_taken(tmp_path: Path) -> None:
    for alpha in (0.9, 0.9995):
        write(tmp_path / str(alpha), WORLD, alpha=alpha)
    first = headlines(answer(load(tmp_path)))[0]
    assert first.startswith("Best by SQNR: percentile 0.9995")
    assert first.endswith("effect on the model unknown.")
    assert not any(text.startswith("Take") for text in headlines(answer(load(tmp_path))))


def test_what_costs_less_than_papers_print_is_negligible(tmp_path: Path) -> None:
    """Decibels apart, and not a thousandth of a nat: real, and it does not matter."""
    evaluated(tmp_path / "a", 0.0001, 7.0, 0, alpha=0.95)
    evaluated(tmp_path / "b", 0.0004, 7.0, 1, alpha=0.9995)
    a = answer(load(tmp_path))
    assert a.verdicts[0].verdict == NEGLIGIBLE
    assert a.verdicts[0].nats[0].reach < NEGLIGIBLE_NATS
    assert a.advice[0].runners[1].tied


def test_predicted_against_measured(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    pairs = []
    for i, alpha in enumerate((0.9, 0.95, 0.99, 0.999, 0.9995)):
        kl = float(rng.uniform(0.01, 0.1))
        path = lossy(evaluated(tmp_path / str(alpha), kl, 8.0, i, alpha=alpha), i, 10.0 ** rng.uniform(-4, -2))
        run = json.loads((path / "run.json").read_text())
        pairs.append((run["loss"]["loss"], run["evaluation"]["kl"]))
    c = answer(load(tmp_path)).calibration
    assert c is not None
    assert c.rank == pytest.approx(spearmanr(*zip(*pairs, strict=True)).statistic)
    assert c.factor == pytest.approx(np.median([m / p for p, m in pairs]))


@pytest.mark.parametrize(("error", "verdict"), [(0.001, DISAGREE), (1.0, TIED)])
def test_two_measures_agree_are_tied_or_disagree(error: float, verdict: str) -> None:
    first = {0: 1.0, 1: 2.0, 2: 3.0}
    other = {0: 1.5, 1: 1.0, 2: 9.0}
    g = compare(first, other, "b", lambda pairs: {p: Estimate(other[p[1]] - other[p[0]], error, 30) for p in pairs})
    assert g is not None
    assert (g.first, g.best, g.verdict) == (0, 1, verdict)
    assert g.difference.value == 0.5
    assert g.rank == pytest.approx(0.5)
    assert g.crossed == ((0, 1) if verdict == DISAGREE else None)
    same = compare(first, first, "b", lambda pairs: {})
    assert same is not None
    assert same.verdict == AGREE


def test_of_repeated_cells_the_one_with_a_known_cost_counts(tmp_path: Path) -> None:
    for i, alpha in enumerate((0.9, 0.9995)):
        evaluated(tmp_path / "first" / str(alpha), 0.1 * (i + 1), 7.0, i, alpha=alpha)
        path = write(tmp_path / "again" / str(alpha), WORLD, alpha=alpha)
        run = json.loads((path / "run.json").read_text())
        (path / "run.json").write_text(json.dumps(run | {"finished": "2027-01-01T00:00:00+00:00"}))
    a = answer(load(tmp_path))
    assert a.advice[0].kind == MEASURED
    assert a.verdicts[0].kind == MEASURED
    assert a.notes == ["2 cells were run more than once and agree bit for bit"]


def test_groups_of_different_measures_are_told_apart(tmp_path: Path) -> None:
    for i, alpha in enumerate((0.9, 0.9995)):
        evaluated(tmp_path / f"int8-{alpha}", 0.1 * (i + 1), 7.0, i, alpha=alpha)
        write(tmp_path / f"int4-{alpha}", WORLD, alpha=alpha, format="int4")
    lines = headlines(answer(load(tmp_path)))
    assert lines[0] == "Take: percentile 0.9 (int8)."
    assert lines[1].startswith("Best by SQNR: percentile 0.9")
    assert lines[1].endswith("(int4); effect on the model unknown.")
    assert lines[2].startswith("Run: ")
