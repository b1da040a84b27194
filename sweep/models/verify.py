"""The check that a network loaded by a library holds what its files hold, tensor by tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sweep.models.tensors import Weights


def differing(lm: Any, weights: Weights) -> list[str]:
    """Names of the files' tensors that a transformers model does not hold bit for bit, in the dtype it has them in.

    Loaders rename, stack and split: what they did is undone, by transformers' own record of it, layer by layer. A
    tensor that cannot be traced back counts as differing. Reads all files once more."""
    left = set(weights)
    wrong = []
    for name, tensor in _stored(lm):
        if name in left:
            left.remove(name)
            if not _same(tensor, weights.read(name, tensor.dtype, tensor.device)):
                wrong.append(name)
    return sorted(wrong) + sorted(left)


def _stored(lm: Any) -> Iterator[tuple[str, Tensor]]:
    """The model's tensors under the names and in the parts that its files have."""
    from transformers.core_model_loading import revert_weight_conversion

    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in lm.state_dict().items():
        layer = re.match(r".*?\blayers\.\d+\.", name)
        layers.setdefault(layer[0] if layer else "", {})[name] = tensor
    for part in layers.values():
        yield from revert_weight_conversion(lm, part).items()


def _same(one: Tensor, other: Tensor) -> bool:
    if torch.equal(one, other):
        return True
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())
