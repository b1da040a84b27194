"""Runs the kernel for CUDA devices on CPU tensors, in numba's simulator, against operations of torch.

Prints a line per case; an assertion that fails ends it. test_count_cuda.py starts it."""

from __future__ import annotations

import os

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # read when numba is imported

import numpy as np
import pytest
import torch

from sweep.calibration import count_cuda, counting, observer
from sweep.core.errors import UsageError
from tests import launches
from tests.tallies import DTYPES, ORDERS

# fewer threads of Python for the simulator to start
count_cuda.PARTS = launches.ALONE.PARTS = 2
count_cuda.CHANNELS, count_cuda.ROWS, count_cuda._THREADS = 32, 2, 64
np.seterr(over="ignore", invalid="ignore")  # as a device does


def check_observer() -> None:
    """A fold that is observed by the kernel is the one that is observed by the CPU."""
    x = torch.randn(5, 20, 72, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = []
    for at_once in (False, True):
        counting.in_one_launch = lambda _, at_once=at_once: at_once
        watched = observer.Observer((0.9,))
        for first, part in ((0, x[:3]), (3, x[3:])):
            watched(0, "a", part)
            watched(0, "b", part[..., 8:])
            watched.check(range(first, first + len(part)))
            state, watched = watched.state_dict(), observer.Observer((0.9,))
            watched.load_state_dict(state)
        found.append(watched.finish())
    here, there = found
    for key in here:
        assert np.array_equal(here[key].histogram.counts, there[key].histogram.counts)
        assert np.array_equal(here[key].channel_absmax, there[key].channel_absmax)
        np.testing.assert_allclose(here[key].channel_abs_sum, there[key].channel_abs_sum, rtol=1e-5)
        np.testing.assert_allclose(here[key].channel_text_mean_max, there[key].channel_text_mean_max, rtol=1e-5)
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


for dtype in DTYPES:
    for order in ORDERS:
        launches.check_one_site(dtype, 37, order)
        print(dtype, order, flush=True)
    launches.check_one_site(dtype, 2 * count_cuda.CHANNELS, "plain")
    launches.check_hook(dtype)
    launches.check_strange(dtype)
    print(dtype, flush=True)
launches.check_every_code()
launches.check_long_texts()
check_observer()
print("observer", flush=True)
