"""transformers' models with their slowest functions replaced, while a calibration runs on a CPU.

transformers' modelling files call a few functions of their own module (`mamba2_chunk_scan`, …) where a fused
CUDA kernel may stand in. On a CPU ours stand in there, by name, and no code of a model is copied. The results
agree to float32 rounding, which is another calibration all the same: VERSION is part of its identity.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from sweep.models.kernels import malloc, selective_scan, ssd
from sweep.models.kernels.conv import Convolve, SharedConvolution, convolve
from sweep.models.mixer import Mixer

VERSION = 3  # to be raised with any change of rounding


@contextmanager
def kernels(mixers: Sequence[Mixer], device: torch.device) -> Iterator[Convolve]:
    """Put them into the modules that the mixers come from; everything is put back whatever happens inside.

    Gives the convolution that the taps are to use. Does nothing on other devices."""
    if device.type != "cpu":
        yield convolve
        return
    shared = SharedConvolution()
    replacements = {
        "mamba2_chunk_scan": ssd.chunk_scan,
        "mamba_selective_scan": selective_scan.selective_scan,
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
        malloc.give_back()
