"""Differences of two cells and mean SQNR with their errors, from the numbers of each place: each by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from handmade import cell
from scipy import stats
from synthetic import World, write

from sweep.compare import load
from sweep.compare.analysis.cost import Estimate
from sweep.compare.analysis.differences import Evidence, agree, digests, evidence
from sweep.compare.analysis.mean_sqnr import known_sqnr, mean_sqnr

IN, OUT, PRE = "x_conv_in", "out_proj_in", "x_conv_pre"
ALTERNATING = np.array([1, -1, 1, -1, 1, -1, 1, -1]) / np.sqrt(7)  # of jackknife error 1
DF = 2 / (1.2 / 8 + 2 / 7)


def wobble(error: float, folds: int = 8) -> list[float]:
    return (ALTERNATING[:folds] * np.sqrt(7 / (folds - 1)) * error).tolist()


def one(root: Path, decide: bool = True, pair: tuple[int, int] = (0, 1), **filters: Any) -> Evidence:
    (e,) = evidence(load(root, **filters), [pair], [decide])
    return e


def p(t: float, df: float = DF) -> float:
    return float(2 * stats.t.sf(t, df))


def test_differences_of_one_calibration(tmp_path: Path) -> None:
    """Without a fold: SQNR 0.25 a more in the first, 0.75 a in the second (a: alternating), so 0.5 is the error of
    their differences. Scales are 1 + 0.25 a and 1 + 0.75 a times as large."""
    db = {(0, IN): 20.0, (0, OUT): 30.0, (0, PRE): 40.0, (2, IN): 25.0}
    more = {(0, IN): 23.0, (0, OUT): 29.0, (0, PRE): 60.0, (2, IN): 25.0}
    cell(tmp_path / "a", db, wobble(0.25), alpha=0.9, scale={(0, IN): 4.0, (0, OUT): 4.0})
    cell(tmp_path / "b", more, wobble(0.75), alpha=0.99, scale={(0, IN): 8.0, (0, OUT): 2.0, (0, PRE): 4.0})
    e = one(tmp_path)
    assert (e.baseline, e.other, e.paired, e.folds, e.exact) == (0, 1, True, 8, False)
    assert e.rows.layer.tolist() == [0, 0, 0, 2]
    assert e.rows.site.tolist() == [OUT, IN, PRE, IN]
    np.testing.assert_allclose(e.rows.scale, [np.log(0.5), np.log(2), np.log(4), 0.0])
    np.testing.assert_allclose(e.rows.sqnr, [-1.0, 3.0, 20.0, 0.0])
    np.testing.assert_allclose(e.rows.sqnr_se, 0.5)
    logs = np.log((1 + 0.75 * ALTERNATING) / (1 + 0.25 * ALTERNATING))
    scale_se = np.sqrt(7) * logs.std()
    np.testing.assert_allclose(e.rows.scale_se, scale_se)
    np.testing.assert_allclose(e.rows.scale_p[:3], [p(np.log(x) / scale_se) for x in (2, 2, 4)])
    np.testing.assert_allclose(e.rows.sqnr_p, [p(2), p(6), p(40), 1.0])
    np.testing.assert_allclose(e.rows.p, np.maximum(e.rows.scale_p, e.rows.sqnr_p))
    assert e.rows.p[1] == e.rows.scale_p[1] > e.rows.sqnr_p[1]
    np.testing.assert_array_equal(one(tmp_path, False).rows.p, e.rows.sqnr_p)
    assert e.means.layer.tolist() == [-1] * 4
    assert e.means.site.tolist() == ["all", OUT, IN, PRE]
    np.testing.assert_allclose(e.means.sqnr, [(-1 + 3 + 0) / 3, -1.0, 1.5, 20.0])
    np.testing.assert_allclose(e.means.scale, [0.0, np.log(0.5), np.log(2) / 2, np.log(4)], atol=1e-15)
    np.testing.assert_allclose(e.means.sqnr_se, 0.5)  # every place has the same folds: no mean makes it less
    np.testing.assert_allclose(e.means.sqnr_p, [p(4 / 3), p(2), p(3), p(40)])
    np.testing.assert_array_equal(e.means.p, np.maximum(e.means.scale_p, e.means.sqnr_p))
    assert e.overall == pytest.approx((2 / 3, 0.5))
    assert e.blind == 0
    assert one(tmp_path, pair=(1, 0)).overall == pytest.approx((-2 / 3, 0.5))


def test_the_error_of_a_mean_is_that_of_the_folds_means(tmp_path: Path) -> None:
    """At one place without a fold 1 a more, at the other 3 a less: 1 a less in the mean."""
    for name, alpha in (("a", 0.9), ("b", 0.99)):
        path = cell(tmp_path / name, {(0, IN): 20.0, (1, IN): 20.0 if name == "a" else 22.0}, alpha=alpha)
    table = pd.read_parquet(path / "replicates.parquet")
    table["sqnr_db"] += np.where(table.layer == 0, 1.0, -3.0) * ALTERNATING[table.fold]
    table.to_parquet(path / "replicates.parquet")
    e = one(tmp_path)
    np.testing.assert_allclose(e.rows.sqnr_se, [1.0, 3.0])
    assert e.overall == pytest.approx((1.0, 1.0))


def test_differences_of_two_calibrations(tmp_path: Path) -> None:
    """Errors 3 and 4 are 5 together; where the folds of one say all the same, no error is told and nothing is an
    effect. The fewer folds count."""
    db = {(0, IN): 20.0}
    cell(tmp_path / "a", db, wobble(0.3), tokens="a" * 64)
    cell(tmp_path / "b", {(0, IN): 24.0}, wobble(0.4), tokens="b" * 64)
    e = one(tmp_path)
    assert (e.paired, e.folds, e.rows.sqnr_se.tolist()) == (False, 8, [pytest.approx(0.5)])
    logs = [np.log1p(x * ALTERNATING).std() * np.sqrt(7) for x in (0.3, 0.4)]
    np.testing.assert_allclose(e.rows.scale_se, np.hypot(*logs))
    assert e.rows.sqnr_p[0] == pytest.approx(p(8))
    assert e.overall == pytest.approx((4.0, 0.5))
    for name, error, folds in (("c", 0.0, 8), ("d", 0.4, 4)):
        cell(tmp_path / name, {(0, IN): 24.0}, wobble(error, folds), tokens=name * 64, scale={(0, IN): 2.0})
    runs = load(tmp_path)
    at = {listed.path.name: n for n, listed in enumerate(runs.listed)}
    for pair in (("a", "c"), ("c", "a")):
        e = one(tmp_path, pair=(at[pair[0]], at[pair[1]]))
        assert (e.rows.sqnr_se.tolist(), e.rows.sqnr_p.tolist(), e.rows.scale_p.tolist()) == ([0.0], [1.0], [1.0])
    for pair in (("a", "d"), ("d", "a")):
        e = one(tmp_path, pair=(at[pair[0]], at[pair[1]]))
        assert (e.folds, e.rows.sqnr_p[0]) == (4, pytest.approx(p(8, 2 / (1.2 / 4 + 2 / 3))))


def test_what_every_fold_shows_alike_is_certain_within_one_calibration(tmp_path: Path) -> None:
    cell(tmp_path / "a", {(0, IN): 20.0}, alpha=0.9)
    cell(tmp_path / "b", {(0, IN): 21.0}, alpha=0.99, scale={(0, IN): 2.0})
    assert one(tmp_path).rows.p.tolist() == [0.0]


@pytest.mark.filterwarnings("error")  # whoever compares would see them
def test_places_that_lose_nothing_or_hold_nothing(tmp_path: Path) -> None:
    """inf against inf, zeros against zeros and unknown against unknown are no differences; nothing that is not finite
    enters a mean."""
    sites = [(0, IN), (1, IN), (2, IN), (3, IN), (4, IN)]
    first = dict(zip(sites, (np.inf, np.nan, np.inf, None, 20.0), strict=True))
    second = dict(zip(sites, (np.inf, np.nan, 30.0, None, 21.0), strict=True))
    zero = {(1, IN): 0.0}
    cell(tmp_path / "a", first, wobble(0.5), scale=zero, alpha=0.9)
    cell(tmp_path / "b", second, wobble(0.5), scale=zero, alpha=0.99)
    e = one(tmp_path)
    assert e.rows.sqnr.tolist() == [0.0, 0.0, -np.inf, 0.0, 1.0]
    assert e.rows.scale.tolist() == [0.0] * 5
    np.testing.assert_array_equal(e.rows.sqnr_se, [0.0, 0.0, np.nan, 0.0, 0.0])
    assert e.rows.scale_se.tolist() == [0.0] * 5
    assert e.overall == (0.25, 0.0)  # 1 dB at one of four places


def test_folds_that_lose_nothing_in_either_do_not_differ(tmp_path: Path) -> None:
    """Without fold 0 both lose nothing; without the others one has 2 dB more, as in all: 0 once and 2 seven times."""
    for name, alpha, db in (("a", 0.9, 20.0), ("b", 0.99, 22.0)):
        cell(tmp_path / name, {(0, IN): db}, [np.inf] + [0.0] * 7, alpha=alpha)
        file = tmp_path / name / "replicates.parquet"
        table = pd.read_parquet(file)
        table["scale"] = 1.0
        table.to_parquet(file)
    assert one(tmp_path).rows.sqnr_se[0] == pytest.approx(np.sqrt(7 * 4 * 1 / 8 * 7 / 8))  # of a share of 1/8


def test_an_unknown_sqnr_where_scales_differ_is_blindness(tmp_path: Path) -> None:
    """Of what is not quantized it is none, nor where the scale is the same."""
    places = [(0, IN), (0, OUT), (0, PRE), (1, IN)]
    known = dict.fromkeys(places, 20.0)
    cell(tmp_path / "a", known, alpha=0.9)
    unknown = known | {(0, IN): None, (0, PRE): None}
    cell(tmp_path / "b", unknown, alpha=0.99, scale={(0, IN): 2.0, (0, PRE): 2.0, (1, IN): 2.0})
    cell(tmp_path / "c", unknown, alpha=0.999, scale={(0, PRE): 2.0})
    e = one(tmp_path)
    assert e.blind == 1
    assert np.isnan(e.overall).all()
    c = one(tmp_path, pair=(0, 2))
    assert (c.blind, c.overall) == (0, (0.0, 0.0))


def test_without_a_quantized_site_there_is_no_overall_mean(tmp_path: Path) -> None:
    for name, alpha in (("a", 0.9), ("b", 0.99)):
        cell(tmp_path / name, {(0, PRE): 20.0}, alpha=alpha)
    e = one(tmp_path)
    assert e.means.site.tolist() == [PRE]
    assert np.isnan(e.overall).all()
    assert np.isnan(e.overall[0])


def test_only_common_places_are_compared(tmp_path: Path) -> None:
    cell(tmp_path / "a", {(0, IN): 20.0, (1, OUT): 30.0, (2, IN): 40.0}, wobble(1.0), alpha=0.9)
    cell(tmp_path / "b", {(1, OUT): 33.0, (1, IN): 20.0, (2, IN): 41.0}, wobble(2.0), alpha=0.99)
    cell(tmp_path / "c", {(5, IN): 33.0}, wobble(2.0), alpha=0.999)
    e = one(tmp_path)
    assert list(zip(e.rows.layer.tolist(), e.rows.site.tolist(), e.rows.sqnr.tolist(), strict=True)) == [
        (1, OUT, 3.0),
        (2, IN, 1.0),
    ]
    np.testing.assert_allclose(e.rows.sqnr_se, 1.0)
    nothing = one(tmp_path, pair=(0, 2))
    assert (len(nothing.rows.p), len(nothing.means.p), nothing.blind) == (0, 0, 0)
    assert np.isnan(nothing.overall).all()
    assert len(nothing.overall) == 2


def test_without_replicates_of_both_there_is_no_error(tmp_path: Path) -> None:
    for name, alpha, there in (("a", 0.9, True), ("b", 0.99, False), ("c", 0.999, False)):
        cell(tmp_path / name, {(0, IN): 20.0 + alpha}, wobble(1.0), alpha=alpha, replicates=there)
    for pair in ((0, 1), (1, 0), (1, 2)):
        e = one(tmp_path, pair=pair)
        assert e.folds == 1
        assert np.isnan([e.rows.sqnr_se[0], e.rows.scale_se[0], e.rows.sqnr_p[0], e.overall[1]]).all()
        assert not np.isnan(e.overall[0])


def test_torn_replicates_are_none(tmp_path: Path) -> None:
    """A place that is not there, a fold that is missing at a place, no row at all; sound ones of others count on."""
    places = {(0, IN): 20.0, (0, OUT): 20.0}
    for n, name in enumerate("abcde"):
        cell(tmp_path / name, places, wobble(1.0 + n), alpha=0.5 + n / 10)
    for name, keep in (("b", lambda t: t.site == IN), ("c", lambda t: t.index > 0), ("d", lambda t: t.fold < 0)):
        file = tmp_path / name / "replicates.parquet"
        table = pd.read_parquet(file)
        table[keep(table)].to_parquet(file)
    told = evidence(load(tmp_path), [(0, 1), (0, 2), (0, 3), (0, 4)], [True] * 4)
    assert [e.folds for e in told] == [1, 1, 1, 8]
    assert told[3].overall == (0.0, pytest.approx(4.0))


def test_filters_leave_out_replicates_too(tmp_path: Path) -> None:
    db = {(0, IN): 20.0, (1, IN): 22.0, (1, OUT): 24.0}
    for name, alpha, error in (("a", 0.9, 1.0), ("b", 0.99, 3.0)):
        cell(tmp_path / name, {k: v + alpha for k, v in db.items()}, wobble(error), alpha=alpha)
    e = one(tmp_path, layer=1, site="x_*")
    assert (e.rows.layer.tolist(), e.rows.site.tolist(), e.folds) == ([1], [IN], 8)
    assert e.overall == pytest.approx((0.09, 2.0))


def test_pairs_and_fingerprints(tmp_path: Path) -> None:
    """Cells a and b agree bit for bit, c has another last digit; d has one site more than a."""
    db = {(0, IN): 20.0}
    cell(tmp_path / "a", db, alpha=0.9, method="minmax")
    cell(tmp_path / "b", db, alpha=0.99, method="minmax")
    cell(tmp_path / "c", {(0, IN): np.nextafter(20.0, 21)}, alpha=0.999, method="minmax")
    cell(tmp_path / "d", db | {(0, OUT): 30.0}, alpha=0.9995, method="minmax")
    runs = load(tmp_path)
    prints = digests(runs)
    assert prints[0] == prints[1]
    assert len(set(prints.values())) == 3
    assert [agree(runs, cells) for cells in ([0, 1], [0, 2], [0, 3], [0, 1, 3], [0, 1, 2])] == [
        True, False, True, True, False,
    ]  # fmt: skip
    pairs = [(1, 0), (2, 0), (0, 3)]
    assert [(e.baseline, e.other, e.exact) for e in evidence(runs, pairs, [True] * 3)] == [
        (1, 0, True), (2, 0, False), (0, 3, False),
    ]  # fmt: skip
    assert [e.exact for e in evidence(runs, pairs, [True] * 3, {0: 1, 1: 2, 2: 1, 3: 1})] == [False, True, True]
    assert evidence(runs, [], []) == []


def grouped(path: Path, alpha: float, shift: float, *more: str) -> Path:
    """x_conv_out in two groups of 10 and 30 values, mean squared errors 2 and 1, 10 and 20 dB: signals of energy
    200 and 3000; x_conv_in in one."""
    values = {(0, site): [np.linspace(1, 2, 8)] * 8 for site in ("x_conv_out", IN, *more)}
    write(path, World(values), alpha=alpha, grid=(2, 1))
    out = {0: (10, 2.0, 10.0, 0.5), 1: (30, 1.0, 20.0, 1.5)}
    for name in ("scales", "replicates"):
        table = pd.read_parquet(path / f"{name}.parquet")
        for g, (n, mse, db, scale) in out.items():
            mine = (table.site == "x_conv_out") & (table.head_group == g)
            table.loc[mine, "sqnr_db"], table.loc[mine, "scale"] = db + shift, scale * 2**shift
            if name == "scales":
                table.loc[mine, "n"], table.loc[mine, "mse"] = n, mse * 10 ** (-shift / 10)
        rest = table.site == IN
        table.loc[rest, "sqnr_db"], table.loc[rest, "scale"] = 40.0, 1.0
        if name == "replicates":
            sign = ALTERNATING[table.fold]
            table["sqnr_db"] += np.where(rest, 0.0, sign * (1 + shift))
            table["scale"] *= np.exp(np.where(rest, 0.0, 0.1 * sign * (1 + shift)))
        table.to_parquet(path / f"{name}.parquet")
    return path


def test_groups_are_pooled_by_their_signal(tmp_path: Path) -> None:
    """Shares of the signal 1/16 and 15/16, so the noise is 1/160 + 15/1600 = 1/64 of it: 18.06 dB. All groups have
    1 a more without a fold in the first and 3 a in the other cell: so has the pool, an error of 2. Scales are averaged,
    1 and 4; errors of ln are 0.1 and 0.3."""
    grouped(tmp_path / "a", 0.9, 0.0)
    grouped(tmp_path / "b", 0.99, 2.0)
    pooled = 10 * np.log10(64)
    e = one(tmp_path)
    assert e.rows.site.tolist() == [IN, "x_conv_out"]
    np.testing.assert_allclose(e.rows.sqnr, [0.0, 2.0])
    np.testing.assert_allclose(e.rows.scale, [0.0, np.log(4)])
    np.testing.assert_allclose(e.rows.sqnr_se, [0.0, 2.0])
    np.testing.assert_allclose(e.rows.scale_se, [0.0, 0.2])
    assert e.overall == pytest.approx((1.0, 1.0))
    means = mean_sqnr(load(tmp_path), [0, 1])
    assert means[0] == Estimate(pytest.approx((40 + pooled) / 2), pytest.approx(0.5), DF)
    assert means[1] == Estimate(pytest.approx((42 + pooled) / 2), pytest.approx(1.5), DF)
    cell(tmp_path / "c", {(0, IN): 30.0, (0, "x_conv_out"): 20.0}, wobble(0.25), alpha=0.9)
    runs = load(tmp_path)
    plain = next(n for n, listed in enumerate(runs.listed) if listed.granularity == "tensor")
    both = mean_sqnr(runs, [0, 1, 2])
    assert both[plain] == Estimate(25.0, pytest.approx(0.25), DF)
    assert sorted(e.se for e in both.values()) == pytest.approx([0.25, 0.5, 1.5])
    other = next(n for n in range(3) if n != plain)
    (mixed,) = evidence(runs, [(plain, other)], [False])
    assert mixed.rows.sqnr.tolist() == [pytest.approx(10.0), pytest.approx(pooled - 20)]
    assert mixed.paired
    np.testing.assert_allclose(mixed.rows.sqnr_se, [0.25, 0.75])


def test_what_is_before_silu_does_not_count_in_the_mean_of_groups(tmp_path: Path) -> None:
    grouped(tmp_path / "a", 0.9, 0.0, PRE)
    runs = load(tmp_path)
    assert PRE in runs.sites
    assert mean_sqnr(runs, [0])[0] == Estimate(pytest.approx((40 + 10 * np.log10(64)) / 2), pytest.approx(0.5), DF)


def test_mean_sqnr_by_hand(tmp_path: Path) -> None:
    """Quantized sites alone, what loses nothing apart; unknown where one of them is, if its scale is not 0."""
    cell(tmp_path / "a", {(0, IN): 20.0, (1, OUT): 24.0, (0, PRE): 99.0, (2, IN): np.inf}, wobble(0.5), alpha=0.1)
    cell(tmp_path / "b", {(0, IN): 20.0, (1, OUT): None}, wobble(0.5), alpha=0.2)
    cell(tmp_path / "c", {(0, IN): 20.0, (1, OUT): np.nan}, wobble(0.5), alpha=0.3, scale={(1, OUT): 0.0})
    cell(tmp_path / "d", {(0, IN): 21.0}, alpha=0.4, replicates=False)
    cell(tmp_path / "e", {(0, PRE): 21.0}, alpha=0.5)
    cell(tmp_path / "f", {(0, IN): 25.0}, wobble(0.5, 4), alpha=0.6)
    cell(tmp_path / "g", {(0, IN): 26.0}, [0.5], alpha=0.7)
    runs = load(tmp_path)
    at = {listed.path.name: n for n, listed in enumerate(runs.listed)}
    assert known_sqnr(runs) == {at[name]: x for name, x in zip("acdfg", (22.0, 20.0, 21.0, 25.0, 26.0), strict=True)}
    means = mean_sqnr(runs, [at[name] for name in "bcadef"])
    assert list(means) == [at[name] for name in "cadf"]
    assert means[at["a"]] == Estimate(22.0, pytest.approx(0.5), DF)
    assert means[at["c"]] == Estimate(20.0, pytest.approx(0.5), DF)
    assert (means[at["d"]].value, means[at["d"]].df, np.isnan(means[at["d"]].se)) == (21.0, 0.0, True)
    assert means[at["f"]] == Estimate(25.0, pytest.approx(0.5), 2 / (1.2 / 4 + 2 / 3))
    (alone,) = mean_sqnr(runs, [at["g"]]).values()
    assert (alone.df, np.isnan(alone.se)) == (0.0, True)
    assert mean_sqnr(runs, []) == {}


@pytest.mark.parametrize("value", [None, np.nan, np.inf])
def test_a_place_that_a_fold_alone_tells_has_no_part_in_the_error(tmp_path: Path, value: float | None) -> None:
    """Without one of the folds nothing is known at OUT, 20 dB above IN: no mean of the others is one of IN alone."""
    path = cell(tmp_path / "a", {(0, IN): 20.0, (1, OUT): 40.0}, wobble(0.5), alpha=0.1)
    table = pd.read_parquet(path / "replicates.parquet")
    table.loc[(table.site == OUT) & (table.fold == 2), "sqnr_db"] = value
    table.to_parquet(path / "replicates.parquet")
    assert mean_sqnr(load(tmp_path), [0])[0] == Estimate(30.0, pytest.approx(0.5), DF)
