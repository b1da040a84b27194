"""transformers' models with their slowest functions replaced, while a calibration runs on a CPU.

transformers' modelling files call a few functions of their own module (`mamba2_chunk_scan`, …) where a fused
CUDA kernel may stand in. On a CPU ours stand in there, by name, and no code of a model is copied. The results
agree to float32 rounding, which is another calibration all the same: VERSION is part of its identity.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch

from sweep.models import scan, ssd
from sweep.models.conv import Convolve, SharedConvolution, convolve
from sweep.sites import Mixer

MALLOPT = {
    "trim threshold": (-1, 1 << 30),
    "top pad": (-2, 1 << 26),
    "mmap threshold": (-3, 1 << 30),
    "arenas": (-8, 1),
}
VERSION = 3  # to be raised with any change of rounding


@contextmanager
def kernels(mixers: Sequence[Mixer], device: torch.device) -> Iterator[Convolve]:
    """Put them into the modules that the mixers come from; everything is put back whatever happens inside.

    Gives the convolution that the taps are to use. Does nothing on other devices."""
    if device.type != "cpu":
        yield convolve
        return
    _keep_memory()
    shared = SharedConvolution()
    replacements = {
        "mamba2_chunk_scan": ssd.chunk_scan,
        "mamba_selective_scan": scan.selective_scan,
        "causal_conv1d_fn": shared.causal_conv1d_fn,
    }
    before = []
    try:
        for module in {sys.modules[type(mixer.module).__module__] for mixer in mixers}:
            for name, replacement in replacements.items():
                if hasattr(module, name):
                    before.append((module, name, getattr(module, name)))
                    setattr(module, name, replacement)
        yield shared
    finally:
        for module, name, original in before:
            setattr(module, name, original)


@cache
def _keep_memory() -> None:
    """Tell glibc not to give freed memory back: a seventh of a forward pass goes into getting it again, page by page.

    Other C libraries are left as they are."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    for option, value in MALLOPT.values():
        mallopt(option, value)
