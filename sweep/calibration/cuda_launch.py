"""The start of a CUDA kernel: it gets a table of addresses and runs on the stream that torch computes on.

In numba's simulator the tensors lie on the CPU, and the kernel reads the same table there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numba import cuda
from torch import Tensor

# what numba reads a dtype from: the type of such a value; float16 goes by int16, bfloat16 by uint16, as on the CPU
LIKE = {torch.float32: np.float32(0), torch.float16: np.int16(0), torch.bfloat16: np.uint16(0)}


def placed(x: Tensor) -> list[int]:
    """The address of a tensor [texts, tokens, channels] and its strides, in values."""
    return [x.data_ptr(), *(x.stride() if x.numel() else (0, 0, 0))]


def there(words: Sequence[int], device: torch.device) -> Tensor:
    """The words of a table, int64, on the device; nothing waits for them. Both copies come from memory that torch keeps
    for its next tensors."""
    here = torch.from_numpy(np.array(words, np.int64))  # a third of the time of torch.tensor
    return here.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else here


def launch(kernel: Any, blocks: int, threads: int, device: torch.device, *arguments: Any) -> None:
    """Run a kernel on the stream that is torch's current one."""
    if device.type != "cuda":  # the simulator
        kernel[blocks, threads](*arguments)
        return
    with cuda.gpus[device.index]:
        stream = cuda.external_stream(torch.cuda.current_stream(device).cuda_stream)
        kernel[blocks, threads, stream](*arguments)
