"""What a cell costs, by which measure, and the error of what another costs more: each number by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from handmade import cell

from sweep.compare import load
from sweep.compare.analysis.cost import MEASURED, PREDICTED, SQNR, Costs, Estimate, text
from sweep.evaluation.scores import Scores
from tests.unit.compare.test_contrasts_by_hand import BASE

IN, OUT, PRE = "x_conv_in", "out_proj_in", "x_conv_pre"
WOBBLE = (np.array([1, -1, 1, -1, 1, -1, 1, -1]) / np.sqrt(7)).tolist()  # of jackknife error 1
DF = 2 / (1.2 / 8 + 2 / 7)
LOSS = {(0, IN): 0.25, (0, OUT): 0.5, (0, PRE): 8.0, (1, IN): 0.125}
SUM = {"loss": 8.875, "loss_se": 0.5}
DB = dict.fromkeys(LOSS, 30.0)
ONE = Estimate(0.1, 0.03, 29)


def listed(*evaluations: dict[str, Any] | None) -> Any:
    return SimpleNamespace(listed=[replace(BASE, evaluation=e) for e in evaluations])


def costs(runs: Any, measured: str = "", predicted: str = "") -> Costs:
    return Costs(runs, *({int(n): ONE for n in numbers} for numbers in (measured, predicted)))


def on(sha: str, *sites: str) -> dict[str, Any]:
    return {"tokens": {"sha256": sha}, "sites": list(sites)}


def test_the_text_of_a_measurement() -> None:
    assert text(BASE) is None
    assert text(replace(BASE, evaluation=on("t", "a", "b"))) == ("m", "t", ("a", "b"))
    assert text(replace(BASE, evaluation={"kl": 1.0, "tokens": None})) == ("m", None, ())


def test_the_measure_that_cells_share() -> None:
    runs = listed(on("t"), on("t"), on("u"), on("t", "a"), None)
    c = costs(runs, "0123", "013")
    assert c.kind([0, 1]) == MEASURED
    assert [c.kind(pair) for pair in ((0, 3), (1, 3))] == [PREDICTED] * 2  # of other sites
    assert [c.kind(pair) for pair in ((0, 2), (0, 4), ())] == [SQNR] * 3
    assert c.kind(n for n in (0, 1)) == MEASURED
    assert c.values(MEASURED) is c.measured
    assert c.values(PREDICTED) is c.predicted
    assert c.values(SQNR) == {}


def test_the_measure_that_ranks() -> None:
    runs = listed(on("t"), on("t"), on("u"), on("u"), on("u"), None)
    assert costs(runs, "01234").ranked([0, 1]) == (MEASURED, [0, 1])
    assert costs(runs, "01234").ranked((0, 1, 2, 3, 4)) == (MEASURED, [2, 3, 4])  # on the usual text
    assert costs(runs, "0125").ranked([0, 1, 2, 5]) == (MEASURED, [0, 1])
    assert costs(runs, "01").ranked((5, 1, 3, 0)) == (MEASURED, [1, 0])  # half of them
    assert costs(runs, "01").ranked((0, 1, 2, 3, 5)) == (SQNR, [0, 1, 2, 3, 5])  # less
    assert costs(runs, "0").ranked([0, 2]) == (SQNR, [0, 2])  # one alone is no ranking
    assert costs(runs, "", "0").ranked([0]) == (PREDICTED, [0])
    assert costs(runs, "012", "0123").ranked((0, 1, 2, 3, 5)) == (PREDICTED, [0, 1, 2, 3])
    assert costs(runs, "01", "23").ranked([0, 1, 2, 3]) == (MEASURED, [0, 1])  # of as many the measured ones
    assert costs(runs).ranked([0, 1]) == (SQNR, [0, 1])


def test_measured_cost_is_what_the_record_says(tmp_path: Path) -> None:
    records: list[dict[str, Any] | None] = [
        {"kl": 0.25, "kl_se": 0.5, "tokens": {"samples": 30}},
        {"kl": 0, "kl_se": 0, "tokens": {}},
        {"kl": 0.25},
        {"kl": None, "tokens": {"samples": 30}},
        {"perplexity": 7.0},
        None,
    ]
    for n, record in enumerate(records):
        cell(tmp_path / str(n), {(0, IN): 30.0}, alpha=0.1 * (1 + n), evaluation=record)
    c = Costs.of(load(tmp_path))
    assert sorted(c.measured) == [0, 1, 2]
    assert c.measured[0] == Estimate(0.25, 0.5, 29.0)
    assert c.measured[1] == Estimate(0.0, 0.0, 7.0)  # of eight texts where it is not said of how many
    assert (c.measured[2].value, c.measured[2].df, np.isnan(c.measured[2].se)) == (0.25, 7.0, True)
    assert c.predicted == {}


def test_predicted_cost_is_read_off_the_record_or_summed(tmp_path: Path) -> None:
    """0.25 + 0.5 + 0.125 at quantized sites; all of them 1 + wobble times as large without a fold, so the error is
    0.875 times that of the wobble. The record says 8.875 ± 0.5 here, as nobody has to sum what it sums."""
    cell(tmp_path / "a", DB, WOBBLE, loss=LOSS, recorded=SUM, alpha=0.9)
    cell(tmp_path / "b", DB, WOBBLE, loss=LOSS, alpha=0.99)
    cell(tmp_path / "c", DB, WOBBLE, alpha=0.999)
    cell(tmp_path / "d", DB, WOBBLE, loss=LOSS | {(1, IN): None}, alpha=0.9995)
    cell(tmp_path / "e", DB, WOBBLE, loss=LOSS, alpha=0.9999, replicates=False)
    c = Costs.of(load(tmp_path))
    assert sorted(c.predicted) == [0, 1, 4]
    assert c.predicted[0] == Estimate(8.875, 0.5, DF)
    assert c.predicted[1] == Estimate(0.875, pytest.approx(0.875), DF)
    assert (c.predicted[4].value, c.predicted[4].df, np.isnan(c.predicted[4].se)) == (0.875, 0.0, True)
    for filters, total in (({"layer": 0}, 0.75), ({"site": IN}, 0.375), ({"site": "x_*", "layer": "0"}, 0.25)):
        some = Costs.of(load(tmp_path, **filters)).predicted
        assert some[0] == some[1] == Estimate(total, pytest.approx(total), DF)
    assert Costs.of(load(tmp_path / "c")).predicted == {}


def test_a_record_without_an_error_or_sum(tmp_path: Path) -> None:
    cell(tmp_path / "a", DB, WOBBLE, loss=LOSS, alpha=0.9, recorded={"loss": None})
    cell(tmp_path / "b", DB, WOBBLE, alpha=0.99, recorded={"loss": 2})
    c = Costs.of(load(tmp_path))
    assert c.predicted[0] == Estimate(0.875, pytest.approx(0.875), DF)  # summed here
    assert (c.predicted[1].value, c.predicted[1].df, np.isnan(c.predicted[1].se)) == (2.0, DF, True)


def test_of_more_cells_than_are_looked_into_the_record_says_which_have_a_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell(tmp_path / "a", DB, WOBBLE, loss=LOSS, alpha=0.9)
    cell(tmp_path / "b", DB, WOBBLE, loss=LOSS, recorded=SUM, alpha=0.99)
    for most, known in ((2, [0, 1]), (1, [1])):
        monkeypatch.setattr("sweep.compare.analysis.cost.COLUMNS_READ", most)
        assert sorted(Costs.of(load(tmp_path)).predicted) == known
    assert sorted(Costs.of(load(tmp_path, layer=1)).predicted) == [1]


def test_differences_of_predicted_cost_are_fold_by_fold(tmp_path: Path) -> None:
    """Without a fold a costs 0.875 (1 + w), b 0.875 (1 + 3 w): 1.75 w more, of error 1.75. c is of another
    calibration, so the errors 0.875 and 2.625 add in quadrature; so do they of d, which tells of four folds, and of e,
    which tells of none and has an error of 0.5 on record."""
    more = [3 * w for w in WOBBLE]
    cell(tmp_path / "a", DB, WOBBLE, loss=LOSS, alpha=0.9)
    cell(tmp_path / "b", DB, more, loss=LOSS, alpha=0.99)
    cell(tmp_path / "c", DB, more, loss=LOSS, alpha=0.999, tokens="b" * 64)
    few = (np.array(WOBBLE[:4]) * np.sqrt(7 / 3) * 2).tolist()
    cell(tmp_path / "d", DB, few, loss=LOSS, alpha=0.9995)
    cell(tmp_path / "e", DB, loss=LOSS, recorded=SUM, alpha=0.9999, replicates=False)
    cell(tmp_path / "f", DB, alpha=0.99999)
    runs = load(tmp_path)
    at = {one.path.name: n for n, one in enumerate(runs.listed)}
    a, b, c, d, e, f = (at[name] for name in "abcdef")
    told = Costs.of(runs).differences(PREDICTED, [(a, b), (b, a), (a, c), (a, d), (a, e), (a, f), (f, a)])
    assert list(told) == [(a, b), (b, a), (a, c), (a, d), (a, e)]
    assert told[a, b] == told[b, a] == Estimate(0.0, pytest.approx(1.75), DF)
    assert told[a, c] == Estimate(0.0, pytest.approx(np.hypot(0.875, 2.625)), DF)
    assert told[a, d] == Estimate(0.0, pytest.approx(np.hypot(0.875, 1.75)), 2 / (1.2 / 4 + 2 / 3))
    assert told[a, e] == Estimate(8.0, pytest.approx(np.hypot(0.875, 0.5)), DF)
    assert Costs.of(runs).differences(MEASURED, [(a, b)]) == {}
    assert Costs.of(runs).differences(SQNR, [(a, b)]) == {}


def scored(path: Path, alpha: float, kl: list[float], **other: Any) -> None:
    """kl: sums over each text's ten tokens."""
    ten = np.full(len(kl), 10)
    lengths = other.get("lengths", ten)
    s = Scores(ten, lengths, np.array(kl) + 20, np.full(len(kl), 20.0), np.array(kl), ten)
    record = {"kl": sum(kl) / 10 / len(kl), "kl_se": 3.0, "tokens": {"sha256": "t", "samples": 6}}
    cell(path, {(0, IN): 30.0}, alpha=alpha, evaluation=record)
    if other.get("scores", True):
        table = s.table().add_column(0, "quantized", pa.array(["all"] * len(kl)))
        other_rows = s.table().add_column(0, "quantized", pa.array(["layer 0"] * len(kl)))
        pq.write_table(pa.concat_tables([other_rows, table]), path / "evaluation.parquet")


def test_differences_of_measured_cost_are_text_by_text(tmp_path: Path) -> None:
    """Per token 0.1, 0.2, 0.3 and 0.2, 0.4, 0.6: differences 0.1, 0.2, 0.3, of standard deviation 0.1 and error
    0.1 / sqrt(3). Without scores, or of another number of texts, both errors of the record add: 3 sqrt(2)."""
    scored(tmp_path / "a", 0.9, [1.0, 2.0, 3.0])
    scored(tmp_path / "b", 0.99, [2.0, 4.0, 6.0])
    scored(tmp_path / "c", 0.999, [2.0, 4.0, 6.0], scores=False)
    scored(tmp_path / "d", 0.9995, [1.0, 3.0, 1.0, 3.0])
    told = Costs.of(load(tmp_path)).differences(MEASURED, [(0, 1), (1, 0), (0, 2), (2, 0), (0, 3), (2, 2)])
    assert told[0, 1] == Estimate(pytest.approx(0.2), pytest.approx(0.1 / np.sqrt(3)), 2.0)
    assert told[1, 0] == Estimate(pytest.approx(-0.2), pytest.approx(0.1 / np.sqrt(3)), 2.0)
    apart = pytest.approx(3 * np.sqrt(2))
    assert told[0, 2] == Estimate(pytest.approx(0.2), apart, 5.0)
    assert told[2, 0] == Estimate(pytest.approx(-0.2), apart, 5.0)
    assert told[0, 3] == Estimate(pytest.approx(0.0), apart, 5.0)


def test_scores_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored(tmp_path / "a", 0.9, [1.0, 2.0, 3.0])
    scored(tmp_path / "b", 0.99, [2.0, 4.0, 6.0])
    real, asked = Scores.of, []
    monkeypatch.setattr(Scores, "of", lambda table: asked.append(len(table)) or real(table))
    Costs.of(load(tmp_path)).differences(MEASURED, [(0, 1), (1, 0)])
    assert asked == [3, 3]


def test_one_text_tells_no_error(tmp_path: Path) -> None:
    scored(tmp_path / "a", 0.9, [1.0])
    scored(tmp_path / "b", 0.99, [2.0])
    told = Costs.of(load(tmp_path)).differences(MEASURED, [(0, 1)])
    assert told[0, 1] == Estimate(pytest.approx(0.1), pytest.approx(3 * np.sqrt(2)), 5.0)


def test_an_estimate_by_itself_knows_no_error() -> None:
    assert np.isnan(Estimate(1.0).se)
    assert Estimate(1.0).df == 0
