"""Whether more data helps, from scales as samples were added: each number by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from handmade import cell
from scipy import stats
from synthetic import CONVERGENCE

from sweep.compare import load
from sweep.compare.analysis.convergence import ENOUGH, convergence

IN, OUT, PRE = "x_conv_in", "out_proj_in", "x_conv_pre"
T8 = float(stats.t.ppf(0.975, 2 / (1.2 / 8 + 2 / 7)))
Growth = tuple[int, str, int, float | None, float | None]  # layer, site, folds, scale, its error


def grown(path: Path, rows: Sequence[Growth], alpha: float, method: str = "percentile") -> None:
    cell(path, {(0, IN): 20.0}, alpha=alpha, method=method)
    table = [
        {"layer": layer, "site": site, "folds": k, "samples": 64 * k, "n": 1, "scale": scale, "scale_se": error}
        for layer, site, k, scale, error in rows
    ]
    pq.write_table(pa.Table.from_pylist(table, CONVERGENCE), path / "convergence.parquet")


def settled(error: float = 1e-4, folds: int = 8) -> list[Growth]:
    return [(0, IN, folds // 2, 2.0, None), (0, IN, folds, 2.0, 2.0 * error)]


def test_errors_and_drift(tmp_path: Path) -> None:
    """Relative errors 0.01, 0.005 and 0.001, times t; drifts 0.1, -0.2 and 0. Before SiLU nothing counts."""
    rows = [
        (0, IN, 1, 9.0, None), (0, IN, 4, 1.0, 0.5), (0, IN, 8, 1.1, 0.011),
        (3, OUT, 4, 2.5, 0.5), (3, OUT, 8, 2.0, 0.01),
        (1, IN, 4, 3.0, 0.5), (1, IN, 8, 3.0, 0.003),
        (0, PRE, 4, 1.0, 0.5), (0, PRE, 8, 9.0, 5.0),
    ]  # fmt: skip
    grown(tmp_path / "a", rows, 0.9)
    (c,) = convergence(load(tmp_path), [0])
    assert (c.cell, c.samples, c.folds, c.rows, c.open_rows, c.enough) == (0, 512, 8, 3, 2, False)
    assert (c.error, c.worst_error, c.drift) == pytest.approx((0.005 * T8, 0.01 * T8, -0.2))
    assert (c.worst_layer, c.worst_site, c.drift_layer, c.drift_site) == (0, IN, 3, OUT)
    assert pytest.approx(0.011579, abs=1e-6) == ENOUGH  # 10^(0.1 / 20) - 1
    assert c.needed == 2664  # 512 (0.01 * 2.64117 / 0.0115795)^2 = 512 * 5.20257 = 2663.7
    assert c.forecast is not None
    assert (c.forecast.samples, c.forecast.more) == (2688, 2176)  # 42 batches of 8 in each of 8 folds


def test_a_row_at_the_bound_is_settled(tmp_path: Path) -> None:
    for n, (name, error) in enumerate((("a", ENOUGH / T8 * 0.999), ("b", ENOUGH / T8 * 1.001))):
        grown(tmp_path / name, settled(error), 0.9 + n / 100)
    a, b = convergence(load(tmp_path), [0, 1])
    assert (a.open_rows, a.enough, a.drift, a.rows, a.needed, a.forecast) == (0, True, 0.0, 1, 511, None)
    assert (b.open_rows, b.enough, b.drift, b.rows, b.needed) == (1, False, 0.0, 1, 514)
    assert b.forecast is not None


@pytest.mark.parametrize("folds", [2, 3])
def test_two_folds_tell_an_error_and_one_does_not(tmp_path: Path, folds: int) -> None:
    """Of three folds the first is their half. The cell of one fold is left out, those after it are not."""
    grown(tmp_path / "a", [(0, IN, 1, 2.0, 0.1)], 0.9)
    grown(tmp_path / "b", [(0, IN, 1, 1.0, None), (0, IN, folds, 2.0, 0.002)], 0.99)
    grown(tmp_path / "c", settled(), 0.999)
    b, c = convergence(load(tmp_path), [0, 1, 2])
    assert (b.cell, c.cell) == (1, 2)
    assert (b.folds, b.samples, b.rows) == (folds, 64 * folds, 1)
    assert b.drift == 1.0
    assert b.worst_error == pytest.approx(0.001 * stats.t.ppf(0.975, 2 / (1.2 / folds + 2 / (folds - 1))))
    assert (c.folds, c.samples) == (8, 512)


def test_only_cells_that_are_asked_for(tmp_path: Path) -> None:
    for n, name in enumerate("abc"):
        grown(tmp_path / name, settled(), 0.9 + n / 100)
    (tmp_path / "c" / "convergence.parquet").unlink()
    runs = load(tmp_path)
    assert [[c.cell for c in convergence(runs, cells)] for cells in ([0, 1, 2], [1, 2], [2], [0])] == [
        [0, 1], [1], [], [0],
    ]  # fmt: skip


def test_copies_are_no_samples(tmp_path: Path) -> None:
    grown(tmp_path / "a", settled(), 0.9)
    record = tmp_path / "a" / "run.json"
    record.write_text(record.read_text().replace('"samples": 512, "seqlen"', '"samples": 512, "distinct": 7, "seqlen"'))
    (c,) = convergence(load(tmp_path), [0])
    assert c.samples == 7


def test_rows_without_a_scale_or_an_error_do_not_count(tmp_path: Path) -> None:
    rows = [
        *settled(),
        (1, IN, 4, 0.0, 0.1), (1, IN, 8, 1.0, 0.5),
        (2, IN, 4, 1.0, 0.1), (2, IN, 8, 0.0, 0.5),
        (3, IN, 4, 1.0, 0.1), (3, IN, 8, 1.0, None),
        (4, IN, 4, 1.0, 0.1), (4, IN, 8, 1.0, float("inf")),
        (5, IN, 8, 1.0, 0.5),
    ]  # fmt: skip
    grown(tmp_path / "a", rows, 0.9)
    (c,) = convergence(load(tmp_path), [0])
    assert (c.rows, c.open_rows) == (1, 0)


def test_a_maximum_has_no_forecast(tmp_path: Path) -> None:
    grown(tmp_path / "a", settled(0.1), 0.9, method="minmax")
    (c,) = convergence(load(tmp_path), [0])
    assert (c.open_rows, c.forecast) == (1, None)
