"""The recommended setting and what others lose, each number by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import cell
from scipy import stats

from sweep.compare import Comparison, load
from sweep.compare.analysis import recommend as module
from sweep.compare.analysis.advice import Advice
from sweep.compare.analysis.agreement import AGREE, DISAGREE, TIED
from sweep.compare.analysis.cost import MEASURED, PREDICTED, SQNR, Costs, Estimate
from sweep.compare.analysis.layer_choice import Choices, choices
from sweep.compare.analysis.recommend import recommend

IN, OUT, PRE = "x_conv_in", "out_proj_in", "x_conv_pre"
DF = 2 / (1.2 / 8 + 2 / 7)  # of eight folds
NOISE = np.array([1, -1, 1, -1, 1, -1, 1, -1]) / np.sqrt(7)  # whose jackknife error is sqrt(7 * 1 / 7) = 1
ALPHAS = (0.9, 0.99, 0.999, 0.9995, 0.9999)


def several(root: Path, *means: float, wobbles: Sequence[float] = (), **more: Any) -> Comparison:
    """Cells of one place with these SQNR in dB, in the order of their alphas; wobbles: the errors of the SQNR."""
    for n, mean in enumerate(means):
        error = wobbles[n] if wobbles else 0.0
        cell(root / f"c{n}", {(0, IN): mean}, (error * NOISE).tolist(), alpha=ALPHAS[n], scale={(0, IN): n + 1}, **more)
    return load(root)


def costs(runs: Comparison, measured: Iterable[Estimate] = (), predicted: Iterable[Estimate] = ()) -> Costs:
    return Costs(runs, dict(enumerate(measured)), dict(enumerate(predicted)))


def names(one: Advice) -> list[str]:
    return [r.setting.removeprefix("percentile ") for r in one.runners]


def chosen(by_layer: Choices) -> list[tuple[int, str, float, float]]:
    return [(c.layer, c.setting, c.sqnr_db, c.loss_db) for c in by_layer.layers]


def test_by_sqnr(tmp_path: Path) -> None:
    """The best one's error is 0.02 dB, others' 0.02, 0.52 and 1.02; they are paired, so errors of what is lost are
    0, 0.5 and 1 dB. Three tests: 0.05 dB are certain and negligible, 3 dB six errors, 3.5 dB three and a half."""
    runs = several(tmp_path, 26.5, 29.95, 30.0, 27.0, wobbles=(1.02, 0.02, 0.02, 0.52))
    (one,) = recommend(runs)
    assert (one.context, one.kind, names(one)) == ("tiny · int8 · tensor", SQNR, ["0.999", "0.99", "0.9995", "0.9"])
    assert [r.cell for r in one.runners] == [2, 1, 3, 0]
    assert [r.sqnr_db for r in one.runners] == [30.0, 29.95, 27.0, 26.5]
    assert [r.loss_db for r in one.runners] == pytest.approx([0.0, 0.05, 3.0, 3.5])
    assert [r.loss_se for r in one.runners] == pytest.approx([0.0, 0.0, 0.5, 1.0], abs=1e-12)
    p = 2 * stats.t.sf([6, 3.5], DF)
    assert 2 * p[0] < 0.05 / 6 < p[1]
    assert [r.tied for r in one.runners] == [False, True, False, True]
    assert {(r.cost, r.more) for r in one.runners} == {(None, None)}
    assert (one.agreement, one.perplexity, one.unranked) == (None, None, ())
    assert one.best.cell == 2
    by_layer = choices(runs, one)
    assert chosen(by_layer) == [(0, "percentile 0.999", 30.0, 0.0)]
    assert (by_layer.layer_loss_db, by_layer.site_loss_db) == (0.0, 0.0)
    assert [c.sqnr_se for c in by_layer.layers] == pytest.approx([0.02])


@pytest.mark.parametrize(("factor", "tied"), [(0.99, True), (1.01, False)])
def test_losses_are_corrected_for_all_contexts(tmp_path: Path, factor: float, tied: bool) -> None:
    """In each of two formats one loses t errors of 1 dB: t beyond p = (0.05 / 6) / 2 counts, as both are tested."""
    t = stats.t.isf(0.05 / 6 / 2 / 2, DF) * factor
    for format in ("int8", "int4"):
        several(tmp_path / format, 30.0, 30.0 - t, wobbles=(0.0, 1.0), format=format)
    both = recommend(load(tmp_path))
    assert [one.context for one in both] == ["tiny · int8 · tensor", "tiny · int4 · tensor"]
    assert [one.runners[1].tied for one in both] == [tied, tied]
    (alone,) = recommend(load(tmp_path / "int8"))
    assert not alone.runners[1].tied


@pytest.mark.parametrize(("lost", "tied"), [(0.0625, True), (0.1, False)])
def test_a_tenth_of_a_decibel(tmp_path: Path, lost: float, tied: bool) -> None:
    (one,) = recommend(several(tmp_path, 0.0, lost))
    assert (one.runners[1].loss_db, one.runners[1].loss_se, one.runners[1].tied) == (lost, 0.0, tied)


def test_errors_of_unpaired_folds_have_the_freedom_of_the_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two cells of one key, one of eight folds, one of four; 3.2 errors: p = 0.026 at 4.6 degrees of freedom, 0.08
    at 2; a level between both tells which."""
    cell(tmp_path / "a", {(0, IN): 30.0}, [0.0] * 8, alpha=0.9)
    path = cell(tmp_path / "b", {(0, IN): 20.0}, [0.0] * 4, alpha=0.99)
    record = path / "run.json"
    record.write_text(record.read_text().replace('"samples": 256', '"samples": 512'))
    runs = load(tmp_path)
    assert [c.folds for c in runs.listed] == [8, 4]
    monkeypatch.setattr(module, "evidence", lambda *asked: [_With((0, 1), (-10.0, 10 / 3.2))])
    p = [2 * stats.t.sf(3.2, 2 / (1.2 / k + 2 / (k - 1))) for k in (4, 8)]
    for level, tied in ((p[0] * 1.01, False), (p[0] * 0.99, True)):
        monkeypatch.setattr(module, "FAMILY", level)
        (one,) = recommend(runs)
        assert one.runners[1].tied is tied
    assert p[1] < p[0] * 0.99


class _With:
    """Evidence with nothing but its overall difference."""

    def __init__(self, pair: tuple[int, int], overall: tuple[float, float]) -> None:
        self.baseline, self.other = pair
        self.overall = overall


def test_who_comes_behind_those_tested_is_no_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four runners-up two are tested: the first is within its error, the second beyond, so all that follow are."""
    monkeypatch.setattr(module, "RUNNERS_UP", 2)
    asked: list[Any] = []
    real = module.evidence
    monkeypatch.setattr(module, "evidence", lambda *given: asked.append(given) or real(*given))
    runs = several(tmp_path / "a", 30.0, 29.0, 28.0, 27.0, 26.0, wobbles=(0, 1, 0.1, 9, 9))
    (one,) = recommend(runs, {n: n for n in range(5)})
    assert [r.tied for r in one.runners] == [False, True, False, False, False]
    assert np.isnan([r.loss_se for r in one.runners[3:]]).all()
    assert asked == [(runs, [(0, 1), (0, 2)], [True, True], {n: n for n in range(5)})]
    (one,) = recommend(several(tmp_path / "b", 30.0, 29.0, 28.0, 27.0, wobbles=(0, 1, 9, 0)))
    assert [r.tied for r in one.runners] == [False, True, True, True]


def test_only_so_many_contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells that stand alone are none of them, and take no place of one."""
    assert (module.CONTEXTS, module.RUNNERS_UP) == (12, 8)
    for tokens in "abc":
        several(tmp_path / tokens, *(30.0, 29.0)[: 1 + (tokens != "a")], tokens=tokens * 64)
    assert [len(one.runners) for one in recommend(load(tmp_path))] == [2, 2]
    monkeypatch.setattr(module, "CONTEXTS", 1)
    (one,) = recommend(load(tmp_path))
    assert " bbbbbb " in one.context
    assert recommend(load(tmp_path / "a")) == []


def test_by_measured_cost(tmp_path: Path) -> None:
    """The first costs 0.1. Errors are independent: sqrt(0.003^2 + 0.004^2) = 0.005, and 0.02 more are four of them;
    0.0005 more are certain and negligible; 0.001 more are not below 0.001. What is predicted does not count."""
    runs = several(tmp_path, 20.0, 30.0, 25.0, 10.0)
    measured = [Estimate(0.1, 0.003, 29), Estimate(0.12, 0.004, 19), Estimate(0.1005, 0.0, 29), Estimate(0.101, 0.0, 9)]
    (one,) = recommend(runs, None, costs(runs, measured, [Estimate(n / 10, 0.0, 5) for n in range(4)]))
    assert (one.kind, names(one)) == (MEASURED, ["0.9", "0.999", "0.9995", "0.99"])
    assert [r.cost for r in one.runners] == [measured[n] for n in (0, 2, 3, 1)]
    assert one.runners[0].more is None
    more = [r.more for r in one.runners[1:] if r.more]
    assert [m.value for m in more] == pytest.approx([0.0005, 0.001, 0.02])
    assert [m.se for m in more] == pytest.approx([0.003, 0.003, 0.005])
    assert [m.df for m in more] == [29, 9, 19]
    assert [r.loss_db for r in one.runners] == [0.0, -5.0, 10.0, -10.0]
    p = 2 * stats.t.sf(4, 19)
    assert 3 * p < 0.05 / 6 < 2 * stats.t.sf(1 / 3, 9)
    assert [r.tied for r in one.runners] == [False, True, True, False]
    assert one.agreement is not None
    assert (one.agreement.other, one.agreement.verdict, one.agreement.first, one.agreement.best) == (
        MEASURED, DISAGREE, 1, 0,
    )  # fmt: skip
    assert one.perplexity is None
    assert recommend(runs)[0].kind == SQNR


@pytest.mark.parametrize(("best", "more", "tied"), [(0.5, 0.0009765625, True), (0.0, 0.001, False)])
def test_a_thousandth_of_a_nat(tmp_path: Path, best: float, more: float, tied: bool) -> None:
    runs = several(tmp_path, 20.0, 30.0)
    known = costs(runs, predicted=[Estimate(best, 0.0, 4.0), Estimate(best + more, 0.0, 4.0)])
    (one,) = recommend(runs, None, known)
    assert (one.kind, one.runners[1].more, one.runners[1].tied) == (PREDICTED, Estimate(more, 0.0, 4.0), tied)


def test_perplexity_beside_measured_cost(tmp_path: Path) -> None:
    for n, (kl, perplexity) in enumerate(((0.1, 8.0), (0.2, 7.0))):
        evaluation = {"kl": kl, "kl_se": 0.001, "perplexity": perplexity, "tokens": {"sha256": "t", "samples": 30}}
        cell(tmp_path / str(n), {(0, IN): 30.0 - n}, alpha=ALPHAS[n], evaluation=evaluation)
    (one,) = recommend(load(tmp_path))
    assert one.perplexity is not None
    assert (one.perplexity.other, one.perplexity.verdict, one.perplexity.best) == ("perplexity", TIED, 1)
    assert one.agreement is not None
    assert one.agreement.verdict == AGREE
    cell(tmp_path / "2", {(0, IN): 20.0}, alpha=0.999)  # not measured: the predicted cost of all three ranks
    runs = load(tmp_path)
    both = [Estimate(0.1), Estimate(0.2), Estimate(0.3)]
    (one,) = recommend(runs, None, costs(runs, both[:2], both))
    assert (one.kind, one.perplexity) == (PREDICTED, None)


def test_last_bits_of_a_mean_make_none_the_better(tmp_path: Path) -> None:
    """In which order threads add a mean up is not said: of 38.2 dB one cell has the next number."""
    runs = several(tmp_path, 38.2, np.nextafter(38.2, 39), 38.1)
    (one,) = recommend(runs)
    assert names(one) == ["0.9", "0.99", "0.999"]


def test_of_equals_the_first_is_best(tmp_path: Path) -> None:
    (one,) = recommend(several(tmp_path, 1.0, 2.0, 1.0, 2.0, 1.0))
    assert [(r.cell, r.sqnr_db) for r in one.runners] == [(1, 2.0), (3, 2.0), (0, 1.0), (2, 1.0), (4, 1.0)]


def test_settings_of_unknown_cost_are_not_ranked(tmp_path: Path) -> None:
    """Two of three are measured; the best by SQNR is the third, which takes no part in what the best one loses."""
    runs = several(tmp_path, 20.0, 21.0, 30.0)
    (one,) = recommend(runs, None, Costs(runs, {0: Estimate(0.1), 1: Estimate(0.2)}, {2: Estimate(0.01)}))
    assert (one.kind, names(one), one.unranked) == (MEASURED, ["0.9", "0.99"], ("percentile 0.999",))
    by_layer = choices(runs, one)
    assert chosen(by_layer) == [(0, "percentile 0.99", 21.0, 1.0)]
    assert (by_layer.layer_loss_db, by_layer.site_loss_db) == (1.0, 1.0)
    assert one.runners[1].tied  # 0.1 more, of unknown error
    assert one.agreement is not None
    assert (one.agreement.cells, one.agreement.first, one.agreement.best) == (2, 1, 0)


def test_layers_and_sites_have_a_best_of_their_own(tmp_path: Path) -> None:
    """Means over five places: a 20 + (4 + 0 + 4 + 0 + 0) / 5, b 20 + (0 + 2 + 0 + 6 + 1) / 5 = 21.8, the best. By
    layer: 0 (two sites) a 2 > b 1; 1 (two sites) b 3 > a 2; 3 b 1 > a 0. b loses 1 in layer 0, of weight 2 of 5. By
    site the best are 4, 2, 4, 6 and 1: 17 less 9 of b, over 5. What is not quantized does not count, nor do rows
    that are not finite in either of them."""
    places = [(0, IN), (0, OUT), (1, IN), (1, OUT), (3, IN)]
    first, second = (
        {p: 20 + x for p, x in zip(places, more, strict=True)} for more in ((4, 0, 4, 0, 0), (0, 2, 0, 6, 1))
    )
    cell(tmp_path / "a", first | {(0, PRE): 99.0, (2, IN): np.inf, (3, OUT): 99.0}, alpha=0.9)
    cell(tmp_path / "b", second | {(0, PRE): 0.0, (2, IN): 10.0, (3, OUT): np.inf}, alpha=0.99)
    (one,) = recommend(runs := load(tmp_path))
    assert [r.sqnr_db for r in one.runners] == pytest.approx([21.8, 21.6])
    by_layer = choices(runs, one)
    assert chosen(by_layer) == [
        (0, "percentile 0.9", 22.0, 1.0),
        (1, "percentile 0.99", 23.0, 0.0),
        (3, "percentile 0.99", 21.0, 0.0),
    ]
    assert by_layer.layer_loss_db == pytest.approx(2 / 5)
    assert by_layer.site_loss_db == pytest.approx(8 / 5)
    assert one.best.setting == "percentile 0.99"


def test_choices_of_layers_have_their_errors(tmp_path: Path) -> None:
    """a wins layer 0 by 2 dB, b layer 1 by 5, so b is best. Errors of a are 1 dB, of b 0.25, and of what b loses to a
    0.75, as the same folds are left out of both; of another calibration they add in quadrature."""
    noise = NOISE.tolist()
    cell(tmp_path / "a", {(0, IN): 30.0, (1, IN): 20.0}, noise, alpha=0.9)
    cell(tmp_path / "b", {(0, IN): 28.0, (1, IN): 25.0}, [x / 4 for x in noise], alpha=0.99)

    def errors(runs: Comparison) -> list[Any]:
        (one,) = recommend(runs)
        by_layer = choices(runs, one)
        assert chosen(by_layer) == [(0, "percentile 0.9", 30.0, 2.0), (1, "percentile 0.99", 25.0, 0.0)]
        return [error for c in by_layer.layers for error in (c.sqnr_se, c.loss_se)]

    assert errors(load(tmp_path)) == pytest.approx([1.0, 0.75, 0.25, 0.0])
    record = tmp_path / "a" / "run.json"
    text = record.read_text()
    record.write_text(text.replace(json.loads(text)["calibration"]["key"], "another"))
    assert errors(load(tmp_path)) == pytest.approx([1.0, math.hypot(1.0, 0.25), 0.25, 0.0])
    record.write_text(text)
    (tmp_path / "b" / "replicates.parquet").unlink()
    assert errors(load(tmp_path)) == [pytest.approx(1.0), None, None, None]


def test_no_choice_of_layers_without_any_sqnr(tmp_path: Path) -> None:
    runs = several(tmp_path, 20.0, 21.0)
    (one,) = recommend(runs)
    nothing = choices(runs, replace(one, runners=tuple(replace(r, sqnr_db=np.nan) for r in one.runners)))
    assert nothing.layers == ()
    assert np.isnan([nothing.layer_loss_db, nothing.site_loss_db]).all()


def test_cells_without_a_common_place_are_not_compared(tmp_path: Path) -> None:
    cell(tmp_path / "a", {(0, IN): 20.0}, alpha=0.9)
    cell(tmp_path / "b", {(1, IN): 21.0}, alpha=0.99)
    assert recommend(load(tmp_path)) == []


@pytest.mark.parametrize("known", [2, 1, 0])
def test_where_some_sqnr_are_unknown_those_with_the_fewest_are_compared(tmp_path: Path, known: int) -> None:
    """Minmax of groups has no SQNR where groups are; alone with all of them known, a cell is compared to none, unless
    the cost ranks all."""
    for n in range(3):
        path = cell(tmp_path / str(n), {(0, IN): 30.0 - n, (0, OUT): 20.0 if n < known else None}, alpha=ALPHAS[n])
        record = path / "run.json"
        record.write_text(record.read_text().replace('"granularity": "tensor"', '"granularity": "group2x2"'))
    runs = load(tmp_path)
    assert [c.granularity for c in runs.listed] == ["group2x2"] * 3
    if known == 2:
        (one,) = recommend(runs)
        assert (names(one), one.unranked) == (["0.9", "0.99"], ("percentile 0.999",))
        assert [r.sqnr_db for r in one.runners] == [25.0, 24.5]
        # the third costs least: it is to be taken, and what it would lose in dB is not known
        (one,) = recommend(runs, None, costs(runs, (Estimate(0.3, 0, 9), Estimate(0.4, 0, 9), Estimate(0.1, 0, 9))))
        assert (names(one), one.unranked) == (["0.999", "0.9", "0.99"], ())
        assert np.isnan(one.best.sqnr_db)
        assert np.isnan([r.loss_db for r in one.runners[1:]]).all()
        assert chosen(choices(runs, one)) == [(0, "percentile 0.9", 25.0, 0.0)]
        (one,) = recommend(runs, None, costs(runs, (Estimate(0.1, 0, 9), Estimate(0.4, 0, 9), Estimate(0.3, 0, 9))))
        assert names(one) == ["0.9", "0.999", "0.99"]
        assert np.isnan([one.runners[1].sqnr_db, one.runners[1].loss_db]).all()
    elif known == 0:
        (one,) = recommend(runs)
        assert [r.sqnr_db for r in one.runners] == [30.0, 29.0, 28.0]  # of x_conv_in, all that is known of any
    else:
        assert recommend(runs) == []
        (one,) = recommend(runs, None, costs(runs, (Estimate(0.3, 0, 9), Estimate(0.2, 0, 9), Estimate(0.1, 0, 9))))
        assert names(one) == ["0.999", "0.99", "0.9"]
        assert [r.sqnr_db for r in one.runners] == [28.0, 29.0, 30.0]  # of x_conv_in alone, known of all
        assert [r.tied for r in one.runners] == [False, False, False]
