"""The largest of many differences, and costs above the baseline's, by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sweep.compare.analysis.contrasts import Contrast
from sweep.compare.analysis.cost import MEASURED, SQNR, Costs, Estimate
from sweep.compare.analysis.differences import Differences
from sweep.compare.analysis.effects import Nats, cost_differences, largest

QUESTION = Contrast("alpha", "here", ("0.9", "0.99", "0.999"), (3, 4, 5), 0)
Row = tuple[int, str, float, float]  # layer, site, dB, p


def part(other: int, *rows: Row) -> Any:
    """Scales are 10 % larger, with a standard error of 1 % of ln."""
    layer, site, db, p = zip(*rows, strict=True)
    n, sqnr = len(rows), np.array(db)
    sites = np.array(site, object)
    d = Differences(
        np.array(layer), sites, np.full(n, np.log(1.1)), np.full(n, 0.01), np.ones(n), sqnr, sqnr / 10, np.ones(n),
        np.ones(n),
    )  # fmt: skip
    return SimpleNamespace(other=other), d, np.array(p)


def test_what_counts_goes_before_what_is_larger() -> None:
    effect, counted = largest(
        QUESTION,
        [
            part(4, (0, "x_conv_in", 5.0, 0.5), (1, "x_conv_in", -0.4, 0.001)),
            part(5, (2, "x_conv_out", 0.2, 0.001), (1, "x_conv_in", 0.3, 0.001)),
        ],
    )
    assert effect is not None
    assert (effect.value, effect.layer, effect.site, effect.db, effect.p) == ("0.99", 1, "x_conv_in", -0.4, 0.001)
    assert effect.db_se == pytest.approx(-0.04)
    assert effect.scale == pytest.approx(0.1)
    assert effect.scale_se == pytest.approx(0.011)
    assert counted == 2  # places, of whatever value: layer 1 x_conv_in and layer 2 x_conv_out


def test_where_nothing_counts_the_largest_is_named() -> None:
    effect, counted = largest(
        QUESTION,
        [part(4, (0, "x_conv_in", 1.0, 0.5)), part(5, (3, "x_conv_in", -2.0, 0.9), (4, "x_conv_in", 1.5, 1.0))],
    )
    assert effect is not None
    assert (effect.value, effect.layer, effect.db, counted) == ("0.999", 3, -2.0, 0)


def test_the_order_of_the_values_does_not_matter() -> None:
    """Of four values the first is not known anywhere, the second counts, the third is larger but does not, the fourth
    counts and is the largest of these."""
    parts = [
        part(4, (0, "x_conv_in", np.nan, 0.0)),
        part(4, (0, "x_conv_in", 0.2, 0.9), (1, "x_conv_in", 0.4, 0.0), (1, "x_conv_out", 0.3, 0.0)),
        part(4, (2, "x_conv_in", 5.0, 0.5), (2, "x_conv_in", 6.0, 0.5)),
        part(5, (3, "x_conv_in", 0.1, 0.7), (0, "x_conv_out", 0.5, 0.0)),
    ]
    for turned in (parts, parts[::-1]):
        effect, counted = largest(QUESTION, turned)
        assert effect is not None
        assert (effect.value, effect.layer, effect.site, effect.db, counted) == ("0.999", 0, "x_conv_out", 0.5, 3)
    effect, counted = largest(QUESTION, [parts[2]])
    assert effect is not None
    assert (effect.db, counted) == (6.0, 0)


def test_no_difference_is_known_to_be_none() -> None:
    """0 dB is a difference of that size; no common place at all is none."""
    for db in (0.0, 0.5):
        effect, counted = largest(QUESTION, [part(4, (0, "x_conv_in", db, 1.0))])
        assert effect is not None
        assert (effect.db, counted) == (db, 0)
    other, d, p = part(4, (0, "x_conv_in", 1.0, 1.0))
    nothing = Differences(*(array[:0] for array in vars(d).values()))
    assert largest(QUESTION, [(other, nothing, p[:0])]) == (None, 0)


def test_what_counts_is_beyond_its_error_and_not_negligible() -> None:
    """0.05 / 6 is the level, 0.1 dB the least size, both included."""
    level = 0.05 / 6
    rows = [
        (0, "x_conv_in", 0.1, level),
        (1, "x_conv_in", 0.0999, 0.0),
        (2, "x_conv_in", 9.0, level * 1.001),
        (3, "x_conv_in", 9.0, np.nan),
    ]
    effect, counted = largest(QUESTION, [part(4, *rows)])
    assert effect is not None
    assert (effect.layer, counted) == (0, 1)


def test_only_quantized_sites_and_means_over_them() -> None:
    effect, counted = largest(QUESTION, [part(4, (-1, "all", 0.5, 0.0), (0, "x_conv_pre", 9.0, 0.0))])
    assert effect is not None
    assert (effect.layer, effect.site, counted) == (None, "all", 1)
    assert largest(QUESTION, [part(4, (0, "x_conv_pre", 9.0, 0.0))]) == (None, 0)
    assert largest(QUESTION, [part(4, (0, "x_conv_in", np.nan, 0.0), (0, "x_conv_in", np.inf, 0.0))]) == (None, 0)
    assert largest(QUESTION, []) == (None, 0)


def test_of_equal_effects_the_first_is_named() -> None:
    effect, _ = largest(QUESTION, [part(4, (0, "x_conv_in", 1.0, 0.0)), part(5, (1, "x_conv_in", -1.0, 0.0))])
    assert effect is not None
    assert effect.value == "0.99"


def test_the_reach_of_a_cost() -> None:
    """|-0.2| + t(0.975, 7) * 0.1 = 0.2 + 2.365 * 0.1."""
    assert Nats("0.9", Estimate(-0.2, 0.1, 7), 1.0).reach == pytest.approx(0.43646, abs=1e-5)
    assert np.isnan(Nats("0.9", Estimate(-0.2), 1.0).reach)


def test_costs_above_the_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    """p of 0.3 / 0.1 and of 0.1 / 0.1 with 29 degrees of freedom, Holm over both; no test of no difference."""
    listed = [SimpleNamespace(identity="m", evaluation={"tokens": {"sha256": "t"}}) for _ in range(9)]
    measured = {3: Estimate(1.0), 4: Estimate(1.3), 5: Estimate(1.0), 6: Estimate(2.0), 7: Estimate(2.1)}
    costs = Costs(SimpleNamespace(listed=listed), measured, {})  # type: ignore[arg-type]
    monkeypatch.setattr(
        Costs,
        "differences",
        lambda self, kind, pairs: {
            (a, b): Estimate(round(measured[b].value - measured[a].value, 9), 0.1, 29)
            for a, b in pairs
            if kind == MEASURED
        },
    )
    other, unknown = Contrast("method", "", ("a", "b"), (6, 7), 0), Contrast("data", "", ("c", "d"), (7, 8), 0)
    questions = [QUESTION, other, unknown]
    kinds, nats = cost_differences(costs, questions, [q.pairs for q in questions])
    assert kinds == [MEASURED, MEASURED, SQNR]
    raw = [2 * stats.t.sf(t, 29) for t in (3.0, 1.0)]
    (big, none), (small,), nothing = nats
    assert (big.value, big.more, big.p) == ("0.99", Estimate(0.3, 0.1, 29), pytest.approx(2 * raw[0]))
    assert (none.value, none.more.value) == ("0.999", 0.0)
    assert np.isnan(none.p)
    assert (small.value, small.p) == ("b", pytest.approx(raw[1]))
    assert nothing == ()
