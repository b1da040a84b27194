"""How two measures rank the same cells, and what is said of it, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sweep.compare.analysis import agreement
from sweep.compare.analysis.agreement import AGREE, DISAGREE, TIED, compare, spearman
from sweep.compare.analysis.cost import MEASURED, PREDICTED, SQNR, Costs, Estimate


def errors(other: dict[int, float], se: float, df: float = 100.0) -> Any:
    return lambda pairs: {(a, b): Estimate(other[b] - other[a], se, df) for a, b in pairs}


@pytest.mark.filterwarnings("error")  # a reader of the report would see them
def test_rank_correlation() -> None:
    assert spearman([1, 2, 3], [10, 20, 90]) == pytest.approx(1.0)
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert spearman([1, 1, 3], [1, 2, 3]) == pytest.approx(np.sqrt(0.75))  # ranks 1.5, 1.5, 3
    assert np.isnan(spearman([1, 2], [2, 1]))
    assert np.isnan(spearman([1, 1, 1], [1, 2, 3]))
    assert np.isnan(spearman([1, 2, 3], [2, 2, 2]))


def test_the_same_cell_is_best_in_both() -> None:
    first, other = {4: 1.0, 5: 2.0, 6: 3.0}, {4: 10.0, 5: 30.0, 6: 20.0}
    found = compare(first, other, "perplexity", errors(other, 0.001))
    assert found is not None
    assert (found.other, found.verdict, found.first, found.best) == ("perplexity", AGREE, 4, 4)
    assert (found.difference.value, found.difference.se) == (0.0, 0.0)
    assert found.cells == 3
    assert found.rank == pytest.approx(0.5)
    assert found.crossed == (5, 6)  # 5 is better by the first, 6 surely by the other


@pytest.mark.parametrize(("se", "verdict", "crossed"), [(0.1, DISAGREE, (0, 1)), (1.0, TIED, None)])
def test_another_is_best_beyond_the_error_or_within_it(
    se: float, verdict: str, crossed: tuple[int, int] | None
) -> None:
    """1 / 0.1 are 10 standard errors, 1 / 1 is one; 2.7 are asked for."""
    first, other = {0: 1.0, 1: 2.0}, {0: 4.0, 1: 3.0}
    found = compare(first, other, "loss", errors(other, se))
    assert found is not None
    assert (found.verdict, found.first, found.best, found.crossed) == (verdict, 0, 1, crossed)
    assert (found.difference.value, found.difference.se) == (1.0, se)  # what the first's choice costs more


def test_a_difference_without_an_error_is_no_disagreement() -> None:
    first, other = {0: 1.0, 1: 2.0}, {0: 4.0, 1: 3.0}
    for known in ({}, {(1, 0): Estimate(1.0)}):
        found = compare(first, other, "loss", lambda pairs, known=known: known)
        assert found is not None
        assert found.verdict == TIED
        assert found.difference.value == 1.0
        assert np.isnan(found.difference.se)
        assert found.crossed is None


def test_of_crossing_pairs_the_one_furthest_apart_is_named() -> None:
    first = {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0}
    other = {0: 0.0, 1: 9.0, 2: 7.0, 3: 4.0}  # crossing: 1-2 by 2, 1-3 by 5, 2-3 by 3
    found = compare(first, other, "loss", errors(other, 0.01))
    assert found is not None
    assert found.crossed == (1, 3)


def test_a_tie_is_not_crossed() -> None:
    first, other = {7: 2.0, 3: 2.0, 5: 1.0}, {7: 3.0, 3: 4.0, 5: 1.0}
    found = compare(first, other, "loss", errors(other, 0.01))
    assert found is not None
    assert (found.first, found.best, found.verdict, found.crossed) == (5, 5, AGREE, None)


def test_only_cells_known_to_both_count() -> None:
    first, other = {0: 1.0, 1: 2.0, 2: np.nan, 3: 0.0}, {0: 1.0, 1: 2.0, 2: 0.0, 4: 0.0, 3: np.inf}
    found = compare(first, other, "loss", errors(other, 0.1))
    assert found is not None
    assert (found.cells, found.first, found.best) == (2, 0, 0)
    assert compare({0: 1.0}, other, "loss", errors(other, 0.1)) is None


def cells(*evaluations: dict[str, Any] | None) -> Any:
    listed = [SimpleNamespace(evaluation=e, identity="m", key="k", path=Path("nowhere")) for e in evaluations]
    return SimpleNamespace(listed=listed)


def read(perplexity: float | None, text: str = "t", se: float | None = None) -> dict[str, Any]:
    return {"perplexity": perplexity, "perplexity_se": se, "tokens": {"sha256": text}, "sites": ["x_conv_out"]}


def test_perplexities_are_of_one_text() -> None:
    runs = cells(read(8.0), None, read(9.0), read(None), read(7.0, "other"))
    assert agreement.perplexities(runs, [0, 1, 2, 3]) == {0: 8.0, 2: 9.0}
    assert agreement.perplexities(runs, [0, 4]) == {}
    assert agreement.perplexities(runs, [1, 3]) == {}


def test_errors_of_perplexities_are_paired_where_scores_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = cells(read(8.0, se=0.3), read(9.5, se=0.4))
    differ = agreement.perplexity_differences(runs)
    assert differ([(0, 1)]) == {(0, 1): Estimate(1.5, pytest.approx(0.5), 7)}
    runs.listed[0].path, runs.listed[1].path = Path("a"), Path("b")
    monkeypatch.setattr(
        agreement, "paired", lambda cell, base: (0.1, 30) if (cell.name, base.name) == ("b", "a") else None
    )
    assert differ([(0, 1)]) == {(0, 1): Estimate(1.5, 0.1, 29)}
    assert np.isnan(agreement.perplexity_differences(cells(read(8.0), read(9.0, se=0.4)))([(0, 1)])[0, 1].se)


def costs(measured: dict[int, float], predicted: dict[int, float], runs: Any = None) -> Costs:
    made = ({n: Estimate(v, 0.001, 29) for n, v in values.items()} for values in (measured, predicted))
    return Costs(runs or cells(*[read(8.0 + n) for n in range(4)]), *made)


def test_measured_by_predicted_cost() -> None:
    found = agreement.calibration(costs({0: 2.0, 1: 6.0, 2: 20.0, 3: 5.0}, {0: 1.0, 1: 2.0, 2: 4.0, 3: 0.0}))
    assert found is not None
    assert (found.cells, found.factor, found.low, found.high) == (3, 3.0, 2.0, 5.0)
    assert found.rank == pytest.approx(1.0)
    two = agreement.calibration(costs({0: 2.0, 1: 6.0}, {0: 1.0, 1: 2.0}))
    assert two is not None
    assert two.factor == 2.5
    assert agreement.calibration(costs({0: 2.0, 1: 6.0}, {0: 1.0, 2: 2.0})) is None


def test_kl_against_perplexity() -> None:
    found = agreement.kl_and_perplexity(costs({0: 0.1, 1: 0.2, 2: 0.05}, {}), [0, 1, 3])
    assert found is not None
    assert (found.other, found.verdict, found.cells, found.first) == ("perplexity", AGREE, 2, 0)
    found = agreement.kl_and_perplexity(costs({0: 0.3, 1: 0.2}, {}), [0, 1])  # of perplexities no error is known
    assert found is not None
    assert (found.verdict, found.first, found.best, found.difference.value) == (TIED, 1, 0, 1.0)


def test_sqnr_against_the_cost_that_all_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQNR is better where it is larger, a cost where it is smaller."""
    asked: list[tuple[str, Sequence[tuple[int, int]]]] = []

    def differences(self: Costs, kind: str, pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Estimate]:
        asked.append((kind, list(pairs)))
        return {}

    monkeypatch.setattr(Costs, "differences", differences)
    both = costs({0: 0.1, 1: 0.2}, {0: 5.0, 1: 4.0, 2: 3.0})
    found = agreement.with_sqnr(both, [0, 1], {0: 30.0, 1: 20.0, 2: 40.0})
    assert found is not None
    assert (found.other, found.verdict, found.cells, asked) == (MEASURED, AGREE, 2, [(MEASURED, [])])
    found = agreement.with_sqnr(both, [0, 1, 2], {0: 30.0, 1: 20.0, 2: 10.0})
    assert found is not None
    assert (found.other, found.verdict, found.first, found.best) == (PREDICTED, TIED, 0, 2)
    assert asked[1] == (PREDICTED, [(2, 0), (2, 0), (1, 0), (2, 1)])
    assert agreement.with_sqnr(both, [0, 1, 3], {0: 30.0, 1: 20.0}) is None
    assert both.kind([3]) == SQNR
