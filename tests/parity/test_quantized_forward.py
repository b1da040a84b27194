"""Fake quantization against a forward pass written from the equations, rounded where a site is used."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sweep.evaluation import forward as passes
from sweep.evaluation.channel_quantizer import Rounding
from sweep.evaluation.fake_quant import fake_quantized
from sweep.models import load
from sweep.quantization.formats import FORMATS
from sweep.quantization.sites import quantized
from tests.parity.test_independent_forward import TINY, Site, forward

INT4 = FORMATS["int4"]
SOURCE = "def silu(x):\n    return x / (1 + exp(-x))  # never above |x|\n"


@pytest.mark.parametrize("site", [*quantized(), "all of them"])
def test_each_site_changes_the_logits_as_the_equations_say(site: str) -> None:
    model = load.load(TINY, "cpu", "float32")
    ids = torch.from_numpy(load.encoder(TINY)(SOURCE))
    weights = {name: value.double() for name, value in model.lm.state_dict().items()}
    with torch.inference_mode():
        values, plain = forward(weights, model.lm.config, ids)
        chosen = {key for key in values if key[1] == site or (site not in quantized() and key[1] in quantized())}
        quantizers = {key: INT4.place(0.0, float(values[key].abs().max())) for key in chosen}

        def change(key: Site, x: Tensor) -> Tensor:
            return torch.from_numpy(quantizers[key].quantize(x.numpy())) if key in chosen else x

        _, expected = forward(weights, model.lm.config, ids, change)
    roundings = {key: Rounding(INT4, np.array([q.scale]), np.zeros(1)) for key, q in quantizers.items()}
    with torch.inference_mode(), fake_quantized(model.mixers, roundings) as rounded:
        found = passes.logits(model, model.backbone(ids[None]))[0].double()
        rounded.check(len(ids))
    moved, apart = (expected - plain).norm(), (found - expected).norm()
    assert moved > 1e-3 * plain.norm()  # the site matters
    # float32 puts a few values on the other side of a border; were the site missed, this would be 1
    assert apart < 0.1 * moved, f"{float(apart / moved):.3f}"
