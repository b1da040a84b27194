"""The observer's ways of going about it make no difference to what it finds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from sweep.calibration import count_cpu
from sweep.calibration.accumulator import SiteFold
from sweep.calibration.observer import Observer
from sweep.core.errors import UsageError
from sweep.quantization.types import SiteKey
from tests.harness import ROOT
from tests.tallies import CHANNELS, DTYPES, ORDERS, check_not_finite, check_values


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def observe(batches: list[dict[str, Tensor]], threads: int, settle_each: bool) -> dict[SiteKey, SiteFold]:
    torch.set_num_threads(threads)
    observer = Observer((0.9,))
    with torch.inference_mode():
        for batch in batches:
            for site, x in batch.items():
                observer(0, site, x)
            if settle_each:
                observer.settle()
        observer.check(range(3))
        return observer.finish()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_threads_and_moments_make_no_difference(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    batches = [
        {site: torch.randn(3, 40, 24).to(dtype)[..., : 8 * (i + 1)] for i, site in enumerate("abc")} for _ in range(9)
    ]
    reference = observe(batches, threads=1, settle_each=True)
    for threads in (1, 2, 3):
        found = observe(batches, threads, settle_each=threads == 2)  # else many tensors of one site at once
        for key, site in reference.items():
            assert np.array_equal(found[key].histogram.counts, site.histogram.counts)
            assert found[key].histogram.n == 9 * 3 * 40 * 8 * ("abc".index(key[1]) + 1)
            assert np.array_equal(found[key].channel_abs_sum, site.channel_abs_sum)
            assert np.array_equal(found[key].text_quantiles, site.text_quantiles)


def test_short_counts_move_on_before_they_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    batches = [{"a": torch.randn(3, 40, 8)} for _ in range(9)]  # 320 values a text
    reference = observe(batches, 1, True)[0, "a"].histogram
    held = []
    real = count_cpu.tally

    def watched(x: Tensor, counts: Tensor, *others: Tensor) -> Tensor:
        finite = real(x, counts, *others)
        held.append(int(counts.sum()))
        return finite

    monkeypatch.setattr(count_cpu, "tally", watched)
    monkeypatch.setattr("sweep.calibration.accumulator.MOST", 700)
    found = observe(batches, 1, True)[0, "a"].histogram
    assert max(held) == 640
    assert np.array_equal(found.counts, reference.counts)


def test_memory_order_makes_no_difference() -> None:
    x = torch.randn(2, 30, 16)
    batches = [[{"a": y}] for y in (x, x.mT.contiguous().mT, torch.cat([x, x], -1)[..., :16])]
    plain, transposed, sliced = (observe(b, 1, True)[0, "a"] for b in batches)
    for other in (transposed, sliced):
        assert np.array_equal(other.histogram.counts, plain.histogram.counts)
        assert np.array_equal(other.channel_absmax, plain.channel_absmax)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_compiled_loops_find_what_torch_finds(dtype: torch.dtype, channels: int, order: str) -> None:
    check_values(count_cpu, dtype, channels, order)


@pytest.mark.parametrize("dtype", DTYPES)
def test_texts_that_are_not_finite_are_told(dtype: torch.dtype) -> None:
    check_not_finite(count_cpu, dtype)


def test_the_first_bad_site_in_the_order_of_the_data_is_named() -> None:
    good, bad = torch.ones(3, 4, 5), torch.ones(3, 4, 50)
    bad[1, 2, 3] = torch.nan
    observer = Observer()
    observer(0, "small", torch.where(torch.arange(3)[:, None, None] == 2, torch.inf, good))
    observer(0, "large", bad)
    with pytest.raises(UsageError, match="layer 0, site small, in sample 12"):
        observer.check([10, 11, 12])


@pytest.mark.slow
def test_the_next_process_need_not_compile() -> None:
    """What numba keeps on disk is found again; a key that holds an address would differ in every process."""
    program = (
        "import torch; from sweep.calibration import count_cpu as tally\n"
        "for dtype in (torch.float32, torch.bfloat16, torch.float16):\n"
        "    low, high, mean = torch.zeros(3, 1, 5)\n"
        "    kept = torch.zeros(65536, dtype=torch.int32), low, high, torch.zeros(1, 5).double(), mean\n"
        "    tally.tally(torch.ones(3, 4, 5, dtype=dtype), *kept)\n"
        "print(len(tally._run.stats.cache_misses), len(tally._run.stats.cache_hits))"
    )
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=240
        )
    assert done.stdout.split() == ["0", "3"]


@pytest.mark.parametrize("texts", [1, 2])
@pytest.mark.parametrize("most", [2**31 - 1, 40_000])
def test_long_texts_are_summed_as_if_in_float64_and_counted_in_stretches(
    monkeypatch: pytest.MonkeyPatch, texts: int, most: int
) -> None:
    monkeypatch.setattr(
        "sweep.calibration.accumulator.MOST", most
    )  # below the values of a text: none may be counted at once
    real, held = count_cpu.tally, []

    def watched(x: Tensor, counts: Tensor, *others: Tensor) -> Tensor:
        finite = real(x, counts, *others)
        held.append(int(counts.sum()))
        return finite

    monkeypatch.setattr(count_cpu, "tally", watched)
    x = torch.rand(texts, 1 << 20, 2, generator=torch.Generator().manual_seed(0)) + 3
    found = observe([{"a": x}], 1, True)[0, "a"]
    assert max(held) <= most
    assert found.histogram.n == x.numel()
    exact = x.double().sum(1)
    np.testing.assert_allclose(found.channel_abs_sum, exact.sum(0), rtol=1e-5)
    np.testing.assert_allclose(found.channel_text_mean_max, exact.amax(0) / x.shape[1], rtol=1e-5)


def test_a_bad_value_late_in_a_long_text_is_seen() -> None:
    x = torch.ones(2, 10_000, 3)
    x[1, 9_999, 2] = torch.nan
    observer = Observer()
    observer(0, "a", x)
    with pytest.raises(UsageError, match="in sample 8"):
        observer.check([7, 8])
