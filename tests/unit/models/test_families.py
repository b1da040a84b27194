"""Every Mamba family of transformers: the computed sites are the values the network itself computes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import FAMILIES, VOCABULARY, Family
from torch import Tensor

from sweep.calibration.taps import taps
from sweep.models.mixer import Mixer, mixers

IDS = torch.randint(3, VOCABULARY, (2, 19), generator=torch.Generator().manual_seed(1))


def observe(lm: Any, found: list[Mixer]) -> dict[tuple[int, str], Tensor]:
    seen: dict[tuple[int, str], Tensor] = {}
    with torch.inference_mode(), taps(found, lambda layer, site, x: seen.update({(layer, site): x})) as fired:
        lm.base_model(IDS, use_cache=False)
        fired.check(IDS.numel())
    return seen


def record(monkeypatch: pytest.MonkeyPatch, mixer: Mixer) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What passes the family's own convolution: input, output before and after SiLU, [batch, seq, channels]."""
    modelling = sys.modules[type(mixer.module).__module__]
    own: Callable[..., Tensor] = modelling.causal_conv1d_fn
    calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def spy(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, **rest: Any
    ) -> Tensor:
        assert activation == "silu"
        out = own(x, weight, bias, activation=activation, **rest)
        pre = own(x, weight, bias, activation=None, **rest)
        calls.append((x.transpose(1, 2), pre.transpose(1, 2), out.transpose(1, 2)))
        return out

    monkeypatch.setattr(modelling, "causal_conv1d_fn", spy)
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_every_site_is_the_models_own_value(
    family: Family, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = family.build(dtype)
    found = mixers(lm)
    assert [m.layer for m in found] == list(family.layers)
    assert {m.family for m in found} == {family.kind}
    calls = record(monkeypatch, found[0])
    seen = observe(lm, found)
    assert len(calls) == len(found)
    assert set(seen) == {(m.layer, site) for m in found for site in m.widths}
    for mixer, passed in zip(found, calls, strict=True):
        for stage, own in zip(("conv_in", "conv_pre", "conv_out"), passed, strict=True):
            mine = torch.cat([seen[mixer.layer, f"{part}_{stage}"] for part, _ in mixer.parts], dim=-1)
            assert mine.dtype is dtype
            assert float(own.abs().max()) > 0
            assert float((mine.double() - own.double()).abs().max()) == 0.0, f"layer {mixer.layer} {stage}"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_geometry_is_the_configs(family: Family) -> None:
    lm = family.build()
    for mixer in mixers(lm):
        assert mixer.d_model == 32
        assert mixer.d_inner == 64
        assert mixer.d_state == (8 if family.kind == "mamba2" else 4)
        assert mixer.n_groups == (2 if family.kind == "mamba2" else 1)
        if family.kind == "mamba2":
            assert mixer.n_heads == 8
            assert mixer.parts == (("x", 64), ("B", 16), ("C", 16))
