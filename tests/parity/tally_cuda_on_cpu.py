"""Runs the kernel for CUDA devices on CPU tensors, in Triton's interpreter, against operations of torch.

Prints a line per case; an assertion that fails ends it. See test_triton.py."""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported

from sweep.calibration import count_cuda
from tests.tallies import DTYPES, ORDERS, check_not_finite, check_values

for dtype in DTYPES:
    for order in ORDERS:
        check_values(count_cuda, dtype, 37, order)
        print(dtype, order)
    check_values(count_cuda, dtype, 2 * count_cuda.CHANNELS, "plain")
    check_not_finite(count_cuda, dtype)
    print(dtype)
