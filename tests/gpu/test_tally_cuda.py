"""The kernel for CUDA devices, compiled and run: `python -m pytest -m gpu`. In numba's simulator CI runs it, too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sweep.calibration.observer import Observer
from tests import launches
from tests.tallies import CHANNELS, DTYPES, ORDERS

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_kernel_finds_what_torch_finds(dtype: torch.dtype) -> None:
    for channels in CHANNELS:
        for order in ORDERS:
            launches.check_one_site(dtype, channels, order, "cuda")
    launches.check_hook(dtype, "cuda")
    launches.check_strange(dtype, "cuda")


def test_every_code_and_long_texts() -> None:
    launches.check_every_code("cuda")
    launches.check_long_texts("cuda")


def test_a_fold_observed_there_is_the_fold_observed_here() -> None:
    x = torch.randn(9, 40, 72, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = []
    for device in ("cpu", "cuda"):
        observer = Observer((0.9,))
        for part in (x[:5], x[5:]):
            observer(0, "a", part.to(device))
            observer(0, "b", part.to(device)[..., 8:])
            observer.check(range(len(part)))
        found.append(observer.finish())
    here, there = found
    for key in here:
        assert np.array_equal(here[key].histogram.counts, there[key].histogram.counts)
        assert np.array_equal(here[key].channel_absmax, there[key].channel_absmax)
        np.testing.assert_allclose(here[key].channel_abs_sum, there[key].channel_abs_sum, rtol=1e-5)
        np.testing.assert_allclose(here[key].channel_text_mean_max, there[key].channel_text_mean_max, rtol=1e-5)
        np.testing.assert_allclose(here[key].text_quantiles, there[key].text_quantiles, rtol=1e-6)
