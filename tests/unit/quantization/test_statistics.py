from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sweep.calibration import finished
from sweep.quantization.statistics import Statistics
from tests.observed_sites import SITE, observe, statistics


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(4, 3, 7, 5, generator=torch.Generator().manual_seed(1))


def equal(a: Statistics, b: Statistics) -> bool:
    def arrays(s: Statistics) -> list[np.ndarray]:
        site = s.sites[SITE]
        h, p = site.histogram, site.pooled
        assert p is not None  # float32
        mine = [site.folds, site.samples, site.channel_absmax, site.channel_abs_sum, site.channel_text_mean_max]
        return [*mine, h.bins, h.counts, h.min, h.max, p.bins, p.counts, p.min, p.max]

    return a.meta == b.meta and all(
        p.dtype == q.dtype and np.array_equal(p, q) for p, q in zip(arrays(a), arrays(b), strict=True)
    )


def test_save_and_load_lose_nothing(tmp_path: Path, x: torch.Tensor) -> None:
    written = statistics(x, [0, 1, 2, 3])
    written.save(tmp_path / "s.parquet")
    assert equal(Statistics.load(tmp_path / "s.parquet"), written)
    assert Statistics.load(tmp_path / "s.parquet").sites[SITE].weight_absmax == 0.25


def test_the_same_statistics_are_the_same_bytes(tmp_path: Path, x: torch.Tensor) -> None:
    for name in "ab":
        statistics(x, [0, 1, 2, 3]).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_shards_merge_to_what_one_job_gives(x: torch.Tensor, order: tuple[int, int]) -> None:
    shards = [statistics(x[:2], [0, 1]), statistics(x[2:], [2, 3])]
    assert equal(shards[order[0]] + shards[order[1]], statistics(x, [0, 1, 2, 3]))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
@pytest.mark.parametrize("waiting", [finished.WAITING, 0])
def test_folds_merge_to_the_same_whether_they_wait_or_not(
    x: torch.Tensor, order: tuple[int, ...], waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finished, "WAITING", waiting)
    folds = finished.Finished()
    assert folds.merged() is None
    for fold in order:
        folds.add(fold, statistics(x[fold : fold + 1], [fold]))
    assert folds.folds == {0, 1, 2, 3}
    merged = folds.merged()
    assert merged is not None
    assert equal(merged, statistics(x, [0, 1, 2, 3]))
    with pytest.raises(ValueError, match="fold 2 is on both sides"):
        Statistics.merge([statistics(x[n : n + 1], [n]) for n in (0, 2, 1, 2)])


def test_what_does_not_belong_together_does_not_merge(x: torch.Tensor) -> None:
    a = statistics(x, [0, 1, 2, 3])
    with pytest.raises(ValueError, match=r"fold 0, 1, 2, 3 is on both sides"):
        a + a
    with pytest.raises(ValueError, match="different models"):
        a + replace(statistics(x, [4, 5, 6, 7]), meta={"family": "mamba1"})
    with pytest.raises(ValueError, match="channels differ"):
        a + statistics(x[..., :4], [4, 5, 6, 7])
    with pytest.raises(ValueError, match="weights differ"):
        a + statistics(x, [4, 5, 6, 7], weight=0.5)
    with pytest.raises(ValueError, match="different layouts"):
        a + statistics(x.half(), [4, 5, 6, 7])
    site = statistics(x, [4, 5, 6, 7]).sites[SITE]
    with pytest.raises(ValueError, match="no histogram of all folds"):
        a + Statistics({SITE: replace(site, pooled=None)}, a.meta)


def test_another_schema_is_refused(tmp_path: Path, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("sweep.quantization.statistics_io.SCHEMA", 99)
        statistics(x, [0, 1, 2, 3]).save(tmp_path / "s.parquet")
    with pytest.raises(ValueError, match="schema 99"):
        Statistics.load(tmp_path / "s.parquet")


def test_channel_statistics_are_what_they_say(x: torch.Tensor) -> None:
    fold = observe(x[0])
    values = x[0].double().numpy()  # [sample, seq, channel]
    assert np.array_equal(fold.channel_absmax, np.abs(x[0].numpy()).max((0, 1)))
    np.testing.assert_allclose(fold.channel_abs_sum, np.abs(values).sum((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(fold.channel_text_mean_max, np.abs(values).mean(1).max(0), rtol=1e-6)
    assert int(fold.histogram.n) == x[0].numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_slices_and_transposes_are_observed_like_their_copies(dtype: torch.dtype) -> None:
    base = torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(2)).to(dtype)
    views = [base[..., 3:8], base.transpose(1, 2)[..., 2:7], base.transpose(1, 2)]
    for view in views:
        one, other = observe(view), observe(view.contiguous())
        assert np.array_equal(one.histogram.bins, other.histogram.bins)
        assert np.array_equal(one.histogram.counts, other.histogram.counts)
        assert np.array_equal(one.channel_absmax, other.channel_absmax)
