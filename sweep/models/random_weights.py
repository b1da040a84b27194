"""Seeded random weights of a given geometry: for benchmarks, never for results."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

_BLOCK = 1 << 24  # values drawn at a time, so that the float32 draft of an embedding stays small


class RandomWeights:
    """Tensors drawn by name: every tensor is the same whichever others were drawn, in whatever order.

    The distributions are those the architectures start training from (mamba_ssm/modules/mamba2.py):
    activations stay finite and look like a network's, but mean nothing."""

    def __init__(self, seed: int, shapes: dict[str, torch.Size]) -> None:
        self._seed = seed
        self._shapes = shapes

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._shapes)

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def read(self, name: str, dtype: torch.dtype, device: str | torch.device = "cpu") -> Tensor:
        shape = self._shapes[name]
        digest = hashlib.sha256(f"{self._seed} {name}".encode()).digest()
        dice = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        out = torch.empty(shape, dtype=dtype)
        flat = out.view(-1)
        for begin in range(0, flat.numel(), _BLOCK):
            part = flat[begin : begin + _BLOCK]
            part.copy_(_draw(name, shape, part.numel(), dice))
        return out.to(device)


def _draw(name: str, shape: torch.Size, count: int, dice: torch.Generator) -> Tensor:
    leaf = ".".join(name.split(".")[-2:])
    uniform = torch.empty(count)
    if name.endswith("A_log"):
        return uniform.uniform_(1, 16, generator=dice).log_()
    if name.endswith(".D") or "norm" in leaf:
        return uniform.fill_(0 if name.endswith(".bias") else 1)
    if name.endswith("dt_bias") or leaf == "dt_proj.bias":  # softplus of it lies in [0.001, 0.1], log-uniform
        dt = uniform.uniform_(math.log(1e-3), math.log(1e-1), generator=dice).exp_()
        return dt + torch.log(-torch.expm1(-dt))
    if leaf.startswith("embedding") or leaf == "lm_head.weight":
        return uniform.normal_(std=0.02, generator=dice)
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else 4  # a bias is conv1d's, of kernel 4
    return uniform.uniform_(-1, 1, generator=dice).mul_(fan_in**-0.5)
