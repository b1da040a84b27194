"""From what the backbone gives to the logits, as a network's own `forward` makes them."""

from __future__ import annotations

import torch
from torch import Tensor

from sweep.models.load import Model


def logits(model: Model, states: Tensor) -> Tensor:
    """[..., vocabulary] from the states that enter lm_head; float32, float64 where the network is."""
    head, settings = model.lm.lm_head, model.lm.config
    product: Tensor = head(states.to(head.weight.dtype))
    product = product.to(torch.promote_types(product.dtype, torch.float32))
    # FalconH1 multiplies them, Granite divides
    return product * getattr(settings, "lm_head_multiplier", 1.0) / getattr(settings, "logits_scaling", 1.0)
