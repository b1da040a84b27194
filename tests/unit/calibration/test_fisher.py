"""Squared gradients merge by putting folds side by side, are stored, and leave files without them as they were."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_store import same, statistics

from sweep.calibration import gradients, spec
from sweep.config.config import Config
from sweep.config.knobs import Calibration, Data, Model
from sweep.core.store_key import Key
from sweep.quantization.bins import BFLOAT16, FLOAT16, FLOAT32_FOLDS
from sweep.quantization.fisher import FisherHistogram
from sweep.quantization.statistics import Statistics


def fisher(fold: int, layout: object = FLOAT32_FOLDS) -> FisherHistogram:
    random = np.random.default_rng(fold)
    size = 65536 // max(layout.width, 1)  # type: ignore[attr-defined]
    dense = np.where(random.random(size) < 0.01, random.random(size), 0.0)
    return FisherHistogram.from_dense(layout, dense, 10 + fold)  # type: ignore[arg-type]


def with_fisher(folds: tuple[int, ...]) -> Statistics:
    parts = [statistics(fold, (fold,)) for fold in folds]
    both = [
        Statistics({key: replace(site, fisher=fisher(fold)) for key, site in part.sites.items()}, part.meta)
        for fold, part in zip(folds, parts, strict=True)
    ]
    return reduce(add, both)


@pytest.mark.parametrize("layout", [FLOAT32_FOLDS, BFLOAT16, FLOAT16], ids=str)
def test_a_fold_holds_the_sums_of_its_bins(layout: object) -> None:
    dense = np.zeros(65536 // max(layout.width, 1))  # type: ignore[attr-defined]
    dense[[3, 700, -1]] = 1.0, 2.5, 1e-30
    found = FisherHistogram.from_dense(layout, dense, 7)  # type: ignore[arg-type]
    step = max(layout.width, 1)  # type: ignore[attr-defined]
    assert found.bins.dtype == np.uint16
    assert found.bins.tolist() == [3 * step, 700 * step, 65536 - step]
    assert found.weights.tolist() == [[1.0, 2.5, 1e-30]]
    assert found.tokens.tolist() == [7]


def test_merging_adds_nothing_and_minds_no_order() -> None:
    parts = [fisher(fold) for fold in range(4)]
    whole = FisherHistogram.merge(parts)
    assert whole.weights.shape == (4, len(whole.bins))
    for row, part in enumerate(parts):
        assert np.array_equal(whole.weights[row, np.isin(whole.bins, part.bins)], part.weights[0])
        assert not whole.weights[row, ~np.isin(whole.bins, part.bins)].any()
    nested = FisherHistogram.merge([FisherHistogram.merge(parts[2:]), FisherHistogram.merge(parts[:2])])
    again = nested.take(np.array([2, 3, 0, 1]))
    for name in ("layout", "bins", "weights", "tokens"):
        assert np.array_equal(getattr(again, name), getattr(whole, name)), name
    with pytest.raises(ValueError, match="different layouts: bfloat16, float16"):
        FisherHistogram.merge([fisher(0, BFLOAT16), fisher(1, FLOAT16)])


def test_folds_come_in_whatever_order() -> None:
    whole = with_fisher((0, 1, 2))
    for order in itertools.permutations(range(3)):
        assert same(with_fisher(order), whole)
    site = next(iter(whole.sites.values()))
    assert site.fisher is not None
    assert site.fisher.tokens.tolist() == [10, 11, 12]
    with pytest.raises(ValueError, match="one side has no squared gradients"):
        whole + statistics(3, (3,))


@pytest.mark.parametrize("dead", [False, True])
def test_what_is_written_is_read(tmp_path: Path, dead: bool) -> None:
    written = with_fisher((0, 1, 2))
    if dead:
        empty = FisherHistogram.merge([FisherHistogram.from_dense(FLOAT32_FOLDS, np.zeros(16384), 5)] * 3)
        sites = {key: replace(site, fisher=empty) for key, site in written.sites.items()}
        written = Statistics(sites, written.meta)
    written.save(tmp_path / "s.parquet")
    found = Statistics.load(tmp_path / "s.parquet")
    assert same(found, written)
    found.save(tmp_path / "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "s.parquet").read_bytes()


def test_a_file_without_them_is_of_the_schema_before(tmp_path: Path) -> None:
    statistics(0, (0, 1)).save(tmp_path / "plain.parquet")
    with_fisher((0, 1)).save(tmp_path / "more.parquet")
    plain, more = (pq.read_schema(tmp_path / f"{name}.parquet") for name in ("plain", "more"))
    assert b'"schema": 3' in plain.metadata[b"sweep"]
    assert b'"schema": 4' in more.metadata[b"sweep"]
    assert set(more.names) - set(plain.names) == {"fisher_layout", "fisher_bins", "fisher_weights", "fisher_tokens"}
    assert next(iter(Statistics.load(tmp_path / "plain.parquet").sites.values())).fisher is None


def key(calibration: Calibration) -> Key:
    tiny = Model("tiny", "pkg://sweep/models/tiny")
    return spec.key(Config(tiny, Data("stdlib"), calibration))


def test_they_are_part_of_a_calibrations_identity_only_where_asked_for() -> None:
    plain = key(Calibration(samples=8, seqlen=32))
    assert "fisher" not in plain.preimage
    asked = key(Calibration(samples=8, seqlen=32, fisher=8))
    assert asked.preimage == {
        **plain.preimage,
        "fisher": gradients.preimage(Calibration(samples=8, fisher=8))["fisher"],
    }
    assert asked.prefix == plain.prefix
    assert len({asked.hash, plain.hash, key(Calibration(samples=16, seqlen=32, fisher=8)).hash}) == 3
    assert key(Calibration(samples=8, seqlen=32, checkpoint=1, fisher=8, shards=2)).hash == asked.hash
