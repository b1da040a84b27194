"""Runs the kernel that sums squared gradients on CUDA devices on CPU tensors, in numba's simulator.

Prints a line per case; an assertion that fails ends it. test_weigh_cuda.py starts it."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # read when numba is imported

import numpy as np
import pytest
import torch

from sweep.calibration import counting, weigh_cuda
from sweep.calibration.gradients import Gradients
from sweep.core.errors import UsageError
from sweep.quantization import bins
from tests import simulator, weighing  # noqa: F401
from tests.tallies import DTYPES

weigh_cuda.THREADS, weigh_cuda.EACH, weigh_cuda.BLOCKS = 16, 5, 1  # fewer threads of Python for the simulator to start
weighing.MOST = 2048  # bins to go through; a fold of bfloat16 has all of its
bins.FLOAT32_FOLDS = replace(bins.FLOAT32_FOLDS, width=64)


def fold(at_once: bool, cut: bool, dtype: torch.dtype) -> Gradients:
    """Two samples of a site, and of float32, whose bins are fewer, of two sites of one hook and another that comes
    twice; cut: saved and gone on from after each."""
    counting.in_one_launch = lambda _: at_once
    random = torch.Generator().manual_seed(1)
    own = Gradients(shifts={(0, "a"): 3, (0, "b"): 0, (1, "a"): 0} if dtype is torch.float32 else None)
    for _ in range(2):
        x, g = torch.randn(2, 1, 11, 9, generator=random).to(dtype)
        own(0, "a", x[..., :4], g[..., :4])
        if dtype is torch.float32:
            own(0, "b", x[..., 4:], g[..., 4:])
        own.settle()
        if dtype is torch.float32:
            own(1, "a", x, g)
            own(1, "a", g, x)  # one site twice before anything is settled
        own.tokens += 11
        if cut:
            state, own = own.state(), Gradients(shifts=own._shifts)
            own.restore(state)
    return own


def check_fold(dtype: torch.dtype, *, whole: bool) -> None:
    """A fold of gradients that a device adds up is the CPU's to 1e-12, cut or whole, and bit for bit the same."""
    here, cut = fold(False, False, dtype).finish(), fold(True, True, dtype).finish()
    assert here.keys() == cut.keys()
    for key, own in cut.items():
        assert str(own.layout) == str(here[key].layout)
        assert np.array_equal(own.bins, here[key].bins)
        np.testing.assert_allclose(own.weights, here[key].weights, rtol=1e-12)
        assert own.tokens.tolist() == here[key].tokens.tolist() == [22]
    if whole:
        for key, own in fold(True, False, dtype).finish().items():
            assert np.array_equal(own.bins, cut[key].bins)
            assert np.array_equal(own.weights, cut[key].weights)


def check_told_late() -> None:
    counting.in_one_launch = lambda _: True
    x = torch.ones(1, 2, 3)
    own = Gradients()
    for layer, factor in ((4, 1.0), (3, torch.inf), (2, 1.0)):
        own(layer, "x_conv_in", x, x * torch.tensor([1, factor, 1]))
        own.settle()
    for ask in (own.state, own.finish):
        with pytest.raises(UsageError, match="layer 3, site x_conv_in is NaN or infinite"):
            ask()


warnings.simplefilter("ignore", RuntimeWarning)  # a device overflows in silence
for kind in DTYPES:
    weighing.check_squares(kind)
    weighing.check_strange(kind)
    print(kind, flush=True)
check_fold(torch.float32, whole=True)
check_fold(torch.bfloat16, whole=False)  # which takes a second for each sample
weighing.check_any_order()
check_told_late()
print("order", flush=True)
