"""Which word a verdict is, and the numbers beside it, from evidence that is made up here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic import World, write

from sweep.compare import load
from sweep.compare.analysis import verdicts as module
from sweep.compare.analysis.contrasts import Contrast
from sweep.compare.analysis.cost import MEASURED, SQNR, Estimate
from sweep.compare.analysis.differences import Differences, Evidence
from sweep.compare.analysis.effects import Nats
from sweep.compare.analysis.rules import (
    DEAD,
    MATTERS,
    NEGLIGIBLE,
    NOISE,
    RULES,
    UNEXAMINED,
    UNRESOLVED,
)
from sweep.compare.analysis.significance import FAMILY
from sweep.compare.analysis.verdicts import Verdict, verdicts

Row = tuple[int, str, float, float, float, float, float]  # layer, site, ln scale, its p, dB, its error, p of both
NO_COSTS = SimpleNamespace(ranked=lambda *cells: (SQNR, []), measured={}, predicted={})
QUESTION = Contrast("alpha", "here", ("0.9", "0.99", "0.999"), (3, 4, 5), 0)
T8 = float(stats.t.ppf(0.975, 2 / (1.2 / 8 + 2 / 7)))  # of eight folds
BY_SCALE = (0, "x_conv_in", 0.1, 1e-9, 0.01, 0.001, 1.0)  # a scale that moved, and 0.01 dB within their error
SURE = (0, "x_conv_in", 0.1, 1e-9, 1.0, 0.01, 1e-9)
NOTHING = (0, "x_conv_in", 0.1, 1.0, 0.01, 0.001, 1.0)


def differences(*rows: Row) -> Differences:
    layer, site, scale, scale_p, sqnr, sqnr_se, p = (np.array(column) for column in zip(*rows, strict=True))
    return Differences(layer, site.astype(object), scale, scale, scale_p, sqnr, sqnr_se, p, p)


def part(rows: Sequence[Row], means: Sequence[Row], other: int = 4, paired: bool = True, folds: int = 8) -> Evidence:
    return Evidence(3, other, paired, folds, False, differences(*rows), differences(*means))


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Any:
    """(evidence of one question, its nats, whether its cells have one fingerprint) → the verdict."""

    def judge(*evidence: Evidence, nats: tuple[Nats, ...] = (), same: bool = False) -> Verdict:
        cells = (3, *(e.other for e in evidence))
        question = Contrast("alpha", "here", tuple(map(str, cells)), cells, 0)
        monkeypatch.setattr(module, "contrasts", lambda listed, baseline: [question])
        monkeypatch.setattr(module, "evidence", lambda *asked: list(evidence))
        monkeypatch.setattr(module, "perplexities", lambda runs, questions: [("texts",)])
        kind = MEASURED if nats else SQNR
        monkeypatch.setattr(module, "cost_differences", lambda costs, questions, chosen: ([kind], [nats]))
        prints = dict.fromkeys(cells, 1) if same else {n: n for n in cells}
        (verdict,) = verdicts(SimpleNamespace(listed=[]), None, prints, NO_COSTS)  # type: ignore[arg-type]
        return verdict

    return judge


@pytest.mark.parametrize(
    ("row", "mean", "folds", "word"),
    [
        (NOTHING, NOTHING, 8, NOISE),
        (SURE, NOTHING, 8, MATTERS),
        (NOTHING, SURE, 8, MATTERS),
        (SURE, SURE, 8, MATTERS),
        (SURE, SURE, 2, MATTERS),
        (SURE, SURE, 1, UNRESOLVED),
        (NOTHING, BY_SCALE, 8, NEGLIGIBLE),
        (BY_SCALE, NOTHING, 8, NOISE),  # scales are judged by the means of sites
        (NOTHING, (0, "x_conv_in", 0.1, FAMILY, 0.01, 0.001, 1.0), 8, NEGLIGIBLE),
        (NOTHING, (0, "x_conv_in", 0.1, 1.001 * FAMILY, 0.01, 0.001, 1.0), 8, NOISE),
        (NOTHING, (0, "x_conv_in", 0.1, 1e-9, 0.1, 0.0, 1.0), 8, UNRESOLVED),  # 0.1 dB is not below 0.1 dB
        (NOTHING, (0, "x_conv_in", 0.1, 1e-9, -0.0999, 0.0, 1.0), 8, NEGLIGIBLE),
        (NOTHING, (0, "x_conv_in", 0.1, 1e-9, 0.01, 0.05, 1.0), 8, UNRESOLVED),  # 0.01 + 2.6 * 0.05
        ((0, "x_conv_in", 0.1, 1.0, np.nan, np.nan, np.nan), NOTHING, 8, UNRESOLVED),  # of some place no SQNR is known
        ((0, "x_conv_in", 0.0, 1.0, np.nan, np.nan, np.nan), NOTHING, 8, NOISE),  # but the scale is the same
    ],
)
def test_the_word_where_no_cost_is_known(judged: Any, row: Row, mean: Row, folds: int, word: str) -> None:
    v = judged(part([row], [mean], folds=folds))
    assert v.verdict == word
    assert v.rule == RULES[word]
    assert judged(part([row], [mean], folds=folds), same=True).verdict == DEAD


def test_one_value_that_matters_is_enough(judged: Any) -> None:
    quiet, loud = part([NOTHING], [NOTHING]), part([NOTHING], [SURE], other=5)
    for both in ((quiet, loud), (loud, quiet)):
        assert judged(*both).verdict == MATTERS
    moved = part([NOTHING], [BY_SCALE], other=5)
    for both in ((quiet, moved), (moved, quiet)):
        assert judged(*both).verdict == NEGLIGIBLE
    few = part([NOTHING], [SURE], other=5, folds=1)
    assert judged(loud, few).verdict == UNRESOLVED


def nats(value: float, p: float, se: float = 0.0) -> Nats:
    return Nats("0.99", Estimate(value, se, 29), p)


@pytest.mark.parametrize(
    ("costs", "moved", "word"),
    [
        ([nats(1e-3, FAMILY)], False, MATTERS),
        ([nats(-1e-3, FAMILY)], False, MATTERS),
        ([nats(0.1, 1.001 * FAMILY)], False, NOISE),
        ([nats(0.1, 1.001 * FAMILY)], True, UNRESOLVED),
        ([nats(0.9e-3, FAMILY)], False, NEGLIGIBLE),
        ([nats(0.9e-3, 1.0)], True, NEGLIGIBLE),
        ([nats(1e-3, 1.0)], True, UNRESOLVED),  # 0.001 is not below 0.001
        ([nats(0.9e-3, FAMILY, 1e-4)], False, UNRESOLVED),  # 0.0009 + 2.05 * 0.0001
        ([nats(0.1, 1.0), nats(0.1, FAMILY)], False, MATTERS),
        ([nats(0.0, 1.0), nats(1e-4, FAMILY)], False, NEGLIGIBLE),
        ([nats(1e-4, FAMILY), nats(0.1, 1.0)], False, UNRESOLVED),
        ([nats(0.0, np.nan)], False, NOISE),
    ],
)
def test_the_word_where_the_cost_is_known(judged: Any, costs: list[Nats], moved: bool, word: str) -> None:
    for folds in (1, 8):  # errors of costs are not those of folds
        v = judged(part([NOTHING], [BY_SCALE if moved else NOTHING], folds=folds), nats=tuple(costs))
        assert (v.verdict, v.kind, v.nats) == (word, MEASURED, tuple(costs))


DECIBELS = (0, "x_conv_in", 0.1, 1.0, 1.0, 0.01, 1e-9)


@pytest.mark.parametrize(("row", "mean"), [(DECIBELS, NOTHING), (NOTHING, DECIBELS), (DECIBELS, DECIBELS)])
def test_decibels_that_differ_make_a_cost_real(judged: Any, row: Row, mean: Row) -> None:
    assert judged(part([row], [mean]), nats=(nats(0.9e-3, 1.0),)).verdict == NEGLIGIBLE


def test_numbers_beside_the_word(judged: Any) -> None:
    first = part(
        [(0, "x_conv_in", 0.1, 1.0, 2.0, 0.1, 1.0), (1, "x_conv_in", 0.0, 1.0, 0.0, 0.0, 1.0)],
        [(-1, "all", 0.1, 1.0, 0.2, 0.1, 1.0), (-1, "x_conv_in", 0.1, 1.0, -0.3, 0.2, 1.0)],
    )
    second = part(
        [(0, "out_proj_in", 0.0, 1.0, 0.0, 0.0, 1.0), (2, "x_conv_out", 0.0, 1.0, 0.5, 0.1, 1.0), NOTHING],
        [(-1, "all", 0.1, 1.0, 0.25, 0.15, 1.0)],
        other=5,
        folds=9,
    )
    v = judged(first, second)
    assert (v.places, v.tests, v.counted, v.folds, v.paired) == (3, 5, 0, 8, True)
    assert v.bound == pytest.approx(0.3 + 0.2 * T8)  # 0.2 + 0.1 t and 0.25 + 0.15 t are less
    assert v.silent == ("out_proj_in",)  # the others' scale or SQNR moves somewhere
    assert (v.row.layer, v.row.db, v.mean.site, v.mean.db) == (0, 2.0, "x_conv_in", -0.3)
    assert (v.contrast.cells, v.evidence, v.perplexity, v.kind, v.nats) == (
        (3, 4, 5), (first, second), ("texts",), SQNR, (),
    )  # fmt: skip
    assert not judged(first, part([NOTHING], [NOTHING], other=5, paired=False)).paired
    two = judged(part([NOTHING], [(-1, "all", 0.1, 1.0, 0.2, 0.1, 1.0)], folds=2))
    assert two.bound == pytest.approx(0.2 + 0.1 * stats.t.ppf(0.975, 2 / (1.2 / 2 + 2)))
    assert np.isnan(judged(part([NOTHING], [NOTHING], folds=1)).bound)
    assert np.isnan(judged(first, part([NOTHING], [NOTHING], other=5, folds=1)).bound)


def test_where_nothing_moves_no_site_is_called_silent(judged: Any) -> None:
    assert judged(part([(0, "x_conv_in", 0.0, 1.0, 0.0, 0.0, 1.0)], [NOTHING])).silent == ()


def test_without_a_finite_place_there_is_no_bound(judged: Any) -> None:
    none = Differences(*(array[:0] for array in vars(differences(NOTHING)).values()))
    v = judged(Evidence(3, 4, True, 8, False, differences(NOTHING), none))
    assert np.isnan(v.bound)
    assert v.mean is None
    v = judged(Evidence(3, 4, True, 8, False, differences(NOTHING), none), part([NOTHING], [NOTHING], other=5))
    assert v.bound == pytest.approx(0.01 + 0.001 * T8)


def test_rows_are_corrected_for_all_rows_of_the_report(judged: Any) -> None:
    """Three tests of rows, 0.001, 0.003 and 0.02, and one row that does not differ, which is none: 3 * 0.001,
    2 * 0.003, 0.02. Of means four: 4 * 0.0005, 3 * 0.0027 and two of 1; of their scales as many."""
    first = part(
        [(0, "x_conv_in", 0.1, 1.0, 2.0, 0.1, 0.001), (1, "x_conv_in", 0.1, 1.0, 5.0, 0.1, 0.02)],
        [(-1, "all", 0.1, 0.0022, 0.4, 0.1, 0.0005)],
    )
    second = part(
        [(0, "x_conv_in", 0.0, 1.0, 0.0, 0.0, 1.0), (2, "x_conv_in", 0.1, 1.0, 3.0, 0.1, 0.003)],
        [
            (-1, "all", 0.1, 1.0, 0.0, 0.0, 1.0),
            (-1, "x_conv_in", 0.1, 1.0, 0.9, 0.1, 0.0027),
            (-1, "x_conv_out", 0.1, 1.0, 0.3, 0.1, 1.0),
            (-1, "out_proj_in", 0.0, 1.0, 0.3, 0.1, 1.0),
        ],
        other=5,
    )
    v = judged(first, second)
    assert (v.row.layer, v.row.db, v.counted) == (2, 3.0, 2)
    assert v.row.p == pytest.approx(0.006)
    assert v.mean.p == pytest.approx(0.0081)
    assert (v.mean.site, v.mean.db) == ("x_conv_in", 0.9)
    v = judged(part([(0, "x_conv_in", 0.0, 1.0, 0.0, 0.0, 1.0)], [(-1, "all", 0.0, 1.0, 0.0, 0.0, 1.0)]))
    assert (v.row.p, v.mean.p) == (1.0, 1.0)


@pytest.mark.parametrize(("p", "word"), [(0.0027, NEGLIGIBLE), (0.0028, NOISE)])
def test_scales_are_corrected_for_all_that_differ(judged: Any, p: float, word: str) -> None:
    """Three means of scales differ, a fourth does not: 3 * 0.0027 is below the level 0.05 / 6 = 0.00833."""
    mean = (-1, "x_conv_in", 0.1, 1.0, 0.01, 0.001, 1.0)
    first = part([NOTHING], [mean, (-1, "x_conv_out", 0.0, 1.0, 0.01, 0.001, 1.0)])
    second = part([NOTHING], [(-1, "all", 0.1, p, 0.01, 0.001, 1.0), mean], other=5)
    assert judged(first, second).verdict == word


SITE = World({(0, "x_conv_in"): [np.arange(1.0, 6.0) + k for k in range(3)]})


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six alphas, 0.1 to 0.6; of 0.6 no SQNR is known."""
    root = tmp_path_factory.mktemp("six")
    for n, db in enumerate((20.0, 25.0, 21.0, 17.0, 20.75, None)):
        path = write(root / str(n), SITE, alpha=0.1 * (n + 1))
        table = pd.read_parquet(path / "scales.parquet")
        table["sqnr_db"] = db
        table.to_parquet(path / "scales.parquet")
    return root


def test_of_too_many_pairs_the_largest_differences_are_examined(six: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean SQNR: 20, 25, 21, 17, 20.75 and unknown, taken for 0. Against cell 0: 5, 1, 3, 0.75 and 20 dB. Of a question
    two are kept at most, of all three; what is the same bit by bit is no difference."""
    runs = load(six)
    asked: list[Any] = []
    first = Contrast("alpha", "one", tuple("abcde"), (0, 1, 2, 3, 4), 0)
    second = Contrast("format", "two", tuple("abc"), (0, 4, 5), 0)
    third = Contrast("granularity", "three", tuple("ab"), (2, 4), 0)
    fourth = Contrast("method", "four", tuple("ab"), (2, 3), 1)

    def evidence(runs: Any, pairs: Any, decide: Any, prints: Any) -> list[Evidence]:
        asked.append((pairs, decide, prints))
        return [part([NOTHING], [NOTHING], other=b, folds=10 + b) for _, b in pairs]

    monkeypatch.setattr(module, "contrasts", lambda listed, baseline: [first, second, third, fourth])
    monkeypatch.setattr(module, "evidence", evidence)
    every = [(0, 1), (0, 2), (0, 3), (0, 4), (0, 4), (0, 5), (2, 4), (3, 2)]
    monkeypatch.setattr(module, "PAIRS", 8)
    prints = {n: n for n in range(6)}
    assert len(verdicts(runs, None, prints)) == 4
    assert asked.pop() == (every, [True] * 4 + [False] * 3 + [True], prints)
    monkeypatch.setattr(module, "PAIRS", 7)
    monkeypatch.setattr(module, "EACH", 2)
    monkeypatch.setattr(module, "TOP", 4)
    words = [(v.verdict, [e.other for e in v.evidence], v.folds) for v in verdicts(runs, None, prints)]
    assert words == [(NOISE, [1, 3], 11), (NOISE, [5], 15), (UNEXAMINED, [], 0), (NOISE, [2], 12)]
    assert asked.pop()[:2] == ([(0, 1), (0, 3), (0, 5), (3, 2)], [True, True, False, True])
    words = [(v.verdict, [e.other for e in v.evidence]) for v in verdicts(runs, None, prints | {1: 0, 5: 0})]
    assert words == [(NOISE, [3, 2]), (NOISE, [4]), (UNEXAMINED, []), (NOISE, [2])]
    monkeypatch.setattr(module, "TOP", 0)
    unknown = verdicts(runs, None, prints)[0]
    assert (unknown.verdict, unknown.places, unknown.tests, unknown.paired) == (UNEXAMINED, 0, 0, False)
    assert np.isnan(unknown.bound)
    assert (unknown.row, unknown.mean, unknown.counted) == (None, None, 0)


def test_what_an_unknown_mean_counts_for(six: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown is 0 dB, on either side of a pair: 20 from cell 0, 20.75 from cell 4, which is more."""
    monkeypatch.setattr(module, "PAIRS", 1)
    monkeypatch.setattr(module, "TOP", 1)
    monkeypatch.setattr(module, "evidence", lambda r, pairs, *rest: [part([NOTHING], [NOTHING])] * len(pairs))
    for first, second in ((0, 4), (4, 0)):
        before, after = (Contrast("alpha", "", ("a", "b"), (n, 5), 0) for n in (first, second))
        questions = [replace(before, baseline=1), after]
        monkeypatch.setattr(module, "contrasts", lambda listed, baseline, questions=questions: questions)
        words = [v.verdict for v in verdicts(load(six), None, {n: n for n in range(6)})]
        assert words == [NOISE if first == 4 else UNEXAMINED, NOISE if first == 0 else UNEXAMINED]


def test_from_cells_to_verdicts(tmp_path: Path) -> None:
    """Two cells alike bit by bit, and two that no test tells apart by anything but their fingerprints."""
    for alpha in (0.5, 0.9):
        write(tmp_path / f"m{alpha}", SITE, method="minmax", alpha=alpha)
        write(tmp_path / f"p{alpha}", SITE, alpha=alpha)
    runs = load(tmp_path)
    minmax, percentile = (v for v in verdicts(runs, "alpha=0.5") if v.contrast.knob == "alpha")
    assert (minmax.verdict, minmax.contrast.baseline) == (DEAD, 0)
    assert (percentile.verdict == DEAD, percentile.contrast.baseline) == (False, 0)
    assert verdicts(load(tmp_path), "alpha=0.9")[0].contrast.baseline == 1
    assert verdicts(load(tmp_path / "m0.5")) == []
