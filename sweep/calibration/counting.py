"""The choice of counting loops by a tensor's device: `count_cpu`, compiled by numba, or `count_cuda`.

Both need a compiler or a CUDA toolkit, so they are imported where the first tensor asks for them.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from sweep.calibration import cuda_rows
from sweep.core.errors import UsageError


def require(device: str) -> None:
    """Raises UsageError where what counts on the device is not installed."""
    if torch.device(device).type == "cuda" and find_spec("numba_cuda") is None:
        version = (torch.version.cuda or "13").partition(".")[0]
        raise UsageError(
            f"device={device}: numba-cuda, by which the observer counts there, is not installed: "
            f"pip install 'numba-cuda[cu{version}]'"
        )


def in_one_launch(x: Tensor) -> bool:
    """True where all sites of a hook are counted by one launch on the tensor's device, which is not waited for."""
    return x.device.type == "cuda"


def parts(x: Tensor) -> int:
    """Number of parts in which extremes of a channel are kept, by the loops of the tensor's device."""
    if in_one_launch(x):
        return cuda_rows.PARTS
    from sweep.calibration import count_cpu

    return count_cpu.PARTS
