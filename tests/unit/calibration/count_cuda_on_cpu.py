"""Runs the kernel for CUDA devices on CPU tensors, in numba's simulator, against operations of torch.

Prints a line per case; an assertion that fails ends it. test_count_cuda.py starts it."""

from __future__ import annotations

import os
import warnings

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # read when numba is imported

import numpy as np
import pytest
import torch

from sweep.calibration import count_cuda, counting, cuda_rows, observer
from sweep.core.errors import UsageError
from tests import launches, simulator  # noqa: F401
from tests.tallies import DTYPES, ORDERS

# fewer threads of Python for the simulator to start
count_cuda.PARTS = cuda_rows.PARTS = launches.ALONE.PARTS = 2
count_cuda.CHANNELS = cuda_rows.CHANNELS = 4
count_cuda.ROWS, count_cuda._THREADS = 2, 8
warnings.simplefilter("ignore", RuntimeWarning)  # a device overflows in silence


def check_observer() -> None:
    """A fold that is observed by the kernel is the one that is observed by the CPU."""
    x = torch.randn(5, 20, 10, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = []
    for at_once in (False, True):
        counting.in_one_launch = lambda _, at_once=at_once: at_once
        watched = observer.Observer((0.9,))
        for first, part in ((0, x[:3]), (3, x[3:])):
            watched(0, "a", part)
            watched(0, "b", part[..., 3:])
            watched.check(range(first, first + len(part)))
            state, watched = watched.state_dict(), observer.Observer((0.9,))
            watched.load_state_dict(state)
        found.append(watched.finish())
    here, there = found
    for key in here:
        launches.check_fold(here[key], there[key])
        np.testing.assert_array_equal(here[key].text_quantiles, there[key].text_quantiles)
    watched = observer.Observer()
    for samples in ([4, 7], [9, 12]):
        y = torch.ones(2, 3, 5)
        y[1, 0, 0] = torch.nan if samples[0] == 9 else 1
        watched(0, "a", y)
        watched(0, "b", y)
        watched.check(samples)
    with pytest.raises(UsageError, match="layer 0, site a, in sample 12"):
        watched.finish()


def check_growth() -> None:
    """A fold of the first texts, and one that begins with its sums and holds the others, are the fold of all."""
    octaves = torch.arange(9) * 29 % 60 - 30  # so far apart that float64 rounds the sums of texts
    x = (torch.randn(9, 20, 5, generator=torch.Generator().manual_seed(0)) * 2.0 ** octaves[:, None, None]).bfloat16()

    def fold(*parts: torch.Tensor, begun: dict[tuple[int, str], np.ndarray] | None = None) -> observer.SiteFold:
        watched = observer.Observer()
        watched.begin(begun or {})
        for part in parts:
            watched(0, "a", part)
            watched.check(range(len(part)))
        return watched.finish()[0, "a"]

    whole, first = fold(*x.split([4, 2, 3])), fold(x[:4])
    grown = fold(*x[4:].split([2, 3]), begun={(0, "a"): first.channel_abs_sum})
    assert np.array_equal(grown.channel_abs_sum, whole.channel_abs_sum)
    assert not np.array_equal(fold(x[4:]).channel_abs_sum, whole.channel_abs_sum)
    together = first.histogram + grown.histogram
    assert np.array_equal(together.bins, whole.histogram.bins)
    assert np.array_equal(together.counts, whole.histogram.counts)


# each dtype with each kind of order, each kind of kernel and each number of channels at least once; tests/gpu has all
plain, transposed, *strided = ORDERS
for dtype, orders, convolution in zip(
    DTYPES, ([transposed], strided, [plain]), ((4, False), (4, True), (2, True)), strict=True
):
    for order in orders:
        launches.check_one_site(dtype, 2 * count_cuda.CHANNELS + 1, order)
        print(dtype, order, flush=True)
    launches.check_one_site(dtype, 2 * count_cuda.CHANNELS, "plain")
    launches.check_strange(dtype)
    launches.check_special(dtype)
    launches.check_convolution(dtype, convolution[0], biased=convolution[1])
    print(dtype, flush=True)
for dtype in (torch.float32, torch.bfloat16):  # of four bytes and of two
    launches.check_hook(dtype)
launches.check_every_code()
launches.check_long_texts()
launches.check_overlapping()
launches.check_sums_go_on()
check_observer()
check_growth()
print("observer", flush=True)
