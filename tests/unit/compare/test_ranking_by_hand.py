"""The ranked table: every setting with what is known of it, each number by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from handmade import cell

from sweep.compare import Comparison, load
from sweep.compare.analysis import ranking as module
from sweep.compare.analysis.contexts import contexts
from sweep.compare.analysis.cost import MEASURED, PREDICTED, SQNR, Costs, Estimate
from sweep.compare.analysis.ranking import AS_GOOD, BEST, UNRANKED, Group, Row, ranking
from sweep.compare.analysis.recommend import recommend

IN, OUT, PRE = "x_conv_in", "out_proj_in", "x_conv_pre"
ALPHAS = (0.9, 0.99, 0.999, 0.9995, 0.9999)
WOBBLE = (np.array([1, -1, 1, -1, 1, -1, 1, -1]) / np.sqrt(7)).tolist()


def several(root: Path, *means: float | None, format: str = "int8") -> Comparison:
    for n, mean in enumerate(means):
        cell(root / f"c{n}", {(0, IN): mean}, alpha=ALPHAS[n], format=format)
    return load(root)


def groups(runs: Comparison, costs: Costs | None = None, advised: bool = True) -> list[Group]:
    costs = costs or Costs.of(runs)
    return ranking(runs, costs, recommend(runs, None, costs) if advised else [])


def column(group: Group, name: str) -> list[object]:
    return [getattr(row, name) for row in group.rows]


def words(group: Group) -> list[tuple[str, str]]:
    return [(row.setting.removeprefix("percentile "), row.verdict) for row in group.rows]


def test_rows_of_advice(tmp_path: Path) -> None:
    """2 dB below the best with certainty, and 0.05 dB, which is as good."""
    (group,) = groups(several(tmp_path, 28.0, 30.0, 29.95))
    assert (group.context, group.kind) == ("tiny · int8 · tensor", SQNR)
    assert words(group) == [("0.99", BEST), ("0.999", AS_GOOD), ("0.9", "")]
    assert column(group, "cell") == [1, 2, 0]
    assert column(group, "sqnr") == [30.0, 29.95, 28.0]
    assert column(group, "lost") == [None, Estimate(pytest.approx(0.05), 0.0), Estimate(2.0, 0.0)]
    for name in ("measured", "predicted", "more", "perplexity", "rise"):
        assert column(group, name) == [None] * 3
    assert column(group, "clipped") == [0.0] * 3


def test_what_is_known_of_a_row(tmp_path: Path) -> None:
    record = {
        "kl": 0.1, "kl_se": 0.01, "perplexity": 8, "perplexity_se": 0.5, "delta_perplexity": 0.25,
        "delta_perplexity_se": 0.125, "tokens": {"sha256": "t", "samples": 30},
    }  # fmt: skip
    cell(tmp_path / "a", {(0, IN): 20.0}, alpha=0.9, evaluation=record)
    some = {"kl": 0.3, "perplexity": 9.0, "tokens": {"sha256": "t", "samples": 30}}
    loss = {"loss": 0.5, "loss_se": 0.25}
    cell(tmp_path / "b", {(0, IN): 21.0}, alpha=0.99, evaluation=some, recorded=loss)
    (group,) = groups(load(tmp_path))
    first, second = group.rows
    assert (group.kind, first.setting, first.measured, first.predicted) == (
        MEASURED, "percentile 0.9", Estimate(0.1, 0.01, 29.0), None,
    )  # fmt: skip
    assert (first.perplexity, first.rise) == (Estimate(8.0, 0.5), Estimate(0.25, 0.125))
    assert (first.more, first.lost, first.sqnr, first.verdict) == (None, None, 20.0, BEST)
    assert second.predicted is not None
    assert (second.predicted.value, second.predicted.se) == (0.5, 0.25)
    assert second.perplexity is not None
    assert (second.perplexity.value, np.isnan(second.perplexity.se), second.rise) == (9.0, True, None)
    assert second.more is not None
    assert (second.more.value, second.verdict) == (pytest.approx(0.2), AS_GOOD)  # 0.2 of unknown error
    assert second.lost is not None
    assert (second.lost.value, second.lost.se) == (-1.0, 0.0)


def test_a_mean_has_the_error_of_its_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WOBBLE has a jackknife error of 1; both sites move together, so their mean has it, too. Without replicates none
    is known, and of many cells only that of the best of each group is looked up."""
    cell(tmp_path / "a", {(0, IN): 30.0, (0, OUT): 20.0}, WOBBLE, alpha=0.9)
    cell(tmp_path / "b", {(0, IN): 29.0, (0, OUT): 20.0}, [0.3 * w for w in WOBBLE], alpha=0.99)
    cell(tmp_path / "c", {(0, IN): 28.0, (0, OUT): 20.0}, alpha=0.999, replicates=False)
    (group,) = groups(load(tmp_path))
    assert column(group, "sqnr") == [25.0, 24.5, 24.0]
    assert column(group, "sqnr_se") == [pytest.approx(1.0), pytest.approx(0.3), None]
    monkeypatch.setattr(module, "MOST", 1)
    (group,) = groups(load(tmp_path))
    assert column(group, "sqnr_se") == [pytest.approx(1.0), None, None]


def test_settings_that_the_ranking_leaves_out_come_last(tmp_path: Path) -> None:
    runs = several(tmp_path, 20.0, 21.0, 30.0)
    costs = Costs(runs, {0: Estimate(0.2, 0.0, 9), 1: Estimate(0.1, 0.0, 9)}, {2: Estimate(0.3)})
    (group,) = groups(runs, costs)
    assert words(group) == [("0.99", BEST), ("0.9", ""), ("0.999", UNRANKED)]
    last = group.rows[-1]
    assert last == Row("percentile 0.999", 2, None, last.predicted, None, 30.0, None, 0.0, None, None, UNRANKED, 0.0)
    assert last.predicted is costs.predicted[2]


def test_an_sqnr_that_is_not_known_everywhere_is_not_shown(tmp_path: Path) -> None:
    """Of three groups one knows x_conv_in alone; costs rank all, and what is lost in dB is not told of that one."""
    for n in range(3):
        db = {(0, IN): 30.0 + n, (0, OUT): None if n == 1 else 20.0}
        path = cell(tmp_path / str(n), db, alpha=ALPHAS[n])
        record = path / "run.json"
        record.write_text(record.read_text().replace('"granularity": "tensor"', '"granularity": "group2x2"'))
    runs = load(tmp_path)
    costs = Costs(runs, {n: Estimate(0.1 * (1 + n), 0.0, 9) for n in range(3)}, {})
    (group,) = groups(runs, costs)
    assert words(group) == [("0.9", BEST), ("0.99", ""), ("0.999", "")]
    assert column(group, "sqnr") == [25.0, None, 26.0]
    assert column(group, "lost") == [None, None, Estimate(-1.0, 0.0)]
    best = Costs(runs, {n: Estimate(0.1 * (1 + (n != 1)), 0.0, 9) for n in range(3)}, {})
    (group,) = groups(runs, best)
    assert words(group) == [("0.99", BEST), ("0.9", ""), ("0.999", "")]
    assert column(group, "lost") == [None] * 3


@pytest.mark.parametrize("kind", [SQNR, MEASURED, PREDICTED])
def test_a_context_without_advice_is_in_order(tmp_path: Path, kind: str) -> None:
    """Costs of all but one; by SQNR one has none."""
    runs = several(tmp_path, 28.0, 30.0, None, 29.0)
    known = {0: Estimate(0.2), 1: Estimate(0.3), 3: Estimate(0.1)}
    costs = Costs(runs, known if kind == MEASURED else {}, known if kind == PREDICTED else {})
    (group,) = groups(runs, costs, advised=False)
    assert (group.context, group.kind) == ("tiny · int8 · tensor", kind)
    if kind == SQNR:
        assert words(group) == [("0.99", BEST), ("0.9995", ""), ("0.9", ""), ("0.999", UNRANKED)]
    else:
        assert words(group) == [("0.9995", BEST), ("0.9", ""), ("0.99", ""), ("0.999", UNRANKED)]
        assert column(group, "measured" if kind == MEASURED else "predicted") == [known.get(n) for n in (3, 0, 1, 2)]
    assert dict(zip(column(group, "cell"), column(group, "sqnr"), strict=True)) == {0: 28.0, 1: 30.0, 2: None, 3: 29.0}
    assert column(group, "more") == column(group, "lost") == [None] * 4


def test_one_alone_is_no_best(tmp_path: Path) -> None:
    (group,) = groups(several(tmp_path / "a", 28.0))
    assert (words(group), group.rows[0].sqnr) == ([("0.9", "")], 28.0)
    (group,) = groups(several(tmp_path / "b", None, 28.0), advised=False)
    assert words(group) == [("0.99", ""), ("0.9", UNRANKED)]
    (group,) = groups(several(tmp_path / "c", 28.0, 29.0), advised=False)
    assert words(group) == [("0.99", BEST), ("0.9", "")]


def test_contexts_with_advice_come_first(tmp_path: Path) -> None:
    several(tmp_path / "a", 28.0)
    several(tmp_path / "b", 27.0, 28.0, format="int4")
    assert [(g.context, len(g.rows)) for g in groups(load(tmp_path))] == [
        ("tiny · int4 · tensor", 2),
        ("tiny · int8 · tensor", 1),
    ]
    assert [g.context for g in groups(load(tmp_path), advised=False)] == [
        "tiny · int8 · tensor",
        "tiny · int4 · tensor",
    ]
    assert len(contexts(load(tmp_path))) == 2


def test_the_share_of_clipped_values_is_of_all_at_quantized_sites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layer 0 has 100 values a site, layer 2 300; shares are 0.25 in the one and 2.25 (more than all, made up) in the
    other: (100 * 0.25 + 300 * 2.25) / 400 = 1.75, whatever is before SiLU. The best of every group go first."""
    for format in ("int8", "int4"):
        for n, (db, clipped) in enumerate(((20.0, 0.25), (30.0, 0.5), (10.0, 0.75))):
            places = {(0, IN): db, (2, IN): db, (5, PRE): 0.0}
            cell(tmp_path / f"{format}{n}", places, WOBBLE, alpha=ALPHAS[n], format=format, clipped=clipped)
    both = groups(load(tmp_path))
    assert [column(group, "clipped") for group in both] == [[2.0, 1.75, 2.25]] * 2
    for most, clipped in ((4, [2.0, 1.75, None]), (2, [2.0, None, None])):
        monkeypatch.setattr(module, "MOST", most)
        assert [column(group, "clipped") for group in groups(load(tmp_path))] == [clipped] * 2
