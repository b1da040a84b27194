"""Every site of every Mamba family of transformers: the network goes on with the rounded values, and with nothing else.

The truth is a network whose convolution and projections were replaced by hand, call by call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, VOCABULARY, Family
from torch import Tensor

from sweep.core.errors import UsageError
from sweep.evaluation import forward
from sweep.evaluation.channel_quantizer import Rounding
from sweep.evaluation.fake_quant import fake_quantized
from sweep.models.load import Model
from sweep.models.mixer import Mixer, mixers
from sweep.quantization.formats import FORMATS

IDS = torch.randint(3, VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(1))
INT4 = FORMATS["int4"]
SITES = ("in_proj_in", "x_conv_in", "B_conv_in", "C_conv_in", "x_conv_out", "B_conv_out", "C_conv_out", "out_proj_in")


def scale(layer: int, site: str) -> float:
    """Of no two sites or layers the same, so that no mix-up can go unseen."""
    return 0.05 * (1 + 0.1 * SITES.index(site) + 0.013 * layer)


def by_hand(layer: int, site: str, x: Tensor) -> Tensor:
    quantizer = INT4.place(0.0, scale(layer, site) * INT4.largest)
    return torch.from_numpy(quantizer.quantize(x.double().numpy())).to(x.dtype)


def states(lm: Any) -> Tensor:
    with torch.inference_mode():
        return lm.base_model(IDS, use_cache=False)[0]


def modelling(mixer: Mixer) -> Any:
    return sys.modules[type(mixer.module).__module__]


Places = set[tuple[int, str]]


def replaced(lm: Any, found: list[Mixer], places: Places, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The states of a network whose own operations were replaced, one call after the other."""
    order: Iterator[Mixer] = iter(found)

    def rounded_first(linear: Any, layer: int, site: str) -> Callable[[Tensor], Tensor]:
        own: Callable[[Tensor], Tensor] = linear.forward
        return lambda x: own(by_hand(layer, site, x))

    with monkeypatch.context() as patch:
        for layer, site in places:
            if "proj" in site:
                mixer = next(m for m in found if m.layer == layer)
                linear = getattr(mixer.module, site.removesuffix("_in"))
                patch.setattr(linear, "forward", rounded_first(linear, layer, site))
        own: Callable[..., Tensor] = modelling(found[0]).causal_conv1d_fn

        def convolution(x: Tensor, *rest: Any, **named: Any) -> Tensor:
            mixer = next(order)

            def split(stage: str, tensor: Tensor) -> Tensor:
                tensor, start = tensor.clone(), 0
                for part, width in mixer.parts:
                    if (mixer.layer, f"{part}_{stage}") in places:
                        piece = slice(start, start + width)
                        tensor[:, piece] = by_hand(mixer.layer, f"{part}_{stage}", tensor[:, piece])
                    start += width
                return tensor

            return split("conv_out", own(split("conv_in", x), *rest, **named))

        patch.setattr(modelling(found[0]), "causal_conv1d_fn", convolution)
        out = states(lm)
    assert next(order, None) is None
    return out


def roundings(found: list[Mixer], sites: set[str]) -> dict[tuple[int, str], Rounding]:
    return {
        (m.layer, site): Rounding(INT4, np.array([scale(m.layer, site)]), np.zeros(1))
        for m in found
        for site in m.widths
        if site in sites
    }


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_the_network_goes_on_with_the_rounded_values(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = family.build()
    found = mixers(lm)
    before, every = states(lm), roundings(found, set(SITES))
    chosen = [{key for key in every if key[1] == site} for site in found[0].widths if site in SITES]
    chosen += [{key for key in every if key[0] == found[-1].layer}, set(every)]
    for places in chosen:
        with fake_quantized(found, {key: every[key] for key in places}) as quantized:
            out = states(lm)
            quantized.check(IDS.numel())
        assert not torch.equal(out, before), places
        assert torch.equal(out, replaced(lm, found, places, monkeypatch)), places
    assert torch.equal(states(lm), before)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_logits_are_the_network_s_own(family: Family) -> None:
    factor = {"falcon_h1": {"lm_head_multiplier": 0.3}, "granitemoehybrid": {"logits_scaling": 3.0}}
    lm = replace(family, settings=family.settings | factor.get(family.name, {})).build()
    model = Model("x", lm, lambda ids: lm.base_model(ids, use_cache=False)[0], tuple(mixers(lm)), lm.device, "")
    with torch.inference_mode():
        expected = lm(IDS, use_cache=False).logits
        found = forward.logits(model, model.backbone(IDS))
    torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=0)


@pytest.fixture
def mamba2() -> Any:
    return next(family for family in FAMILIES if family.name == "mamba2").build()


def hooks(lm: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.modules())


def test_everything_comes_off_whatever_happens(mamba2: Any) -> None:
    found = mixers(mamba2)
    original, before = modelling(found[0]).causal_conv1d_fn, hooks(mamba2)
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), fake_quantized(found, roundings(found, set(SITES))):  # noqa: PT012
            assert modelling(found[0]).causal_conv1d_fn is not original
            assert hooks(mamba2) > before
            raise error
        assert modelling(found[0]).causal_conv1d_fn is original
        assert hooks(mamba2) == before


def test_it_goes_on_after_a_forward_pass_that_failed(mamba2: Any) -> None:
    found = mixers(mamba2)
    with fake_quantized(found, roundings(found, set(SITES))) as quantized:
        with pytest.raises(IndexError), torch.inference_mode():
            mamba2.base_model(IDS + VOCABULARY)
        states(mamba2)
        quantized.check(IDS.numel())


@pytest.mark.parametrize("site", ["x_conv_in", "C_conv_out", "out_proj_in"])
def test_a_site_that_a_fused_path_hides_is_an_error_by_name(
    mamba2: Any, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = mixers(mamba2)
    # the patch is undone before the functions are put back, or it would put back the rounding one afterwards
    with fake_quantized(found, roundings(found, {site})) as quantized, monkeypatch.context() as patch:
        if site == "out_proj_in":  # what a fused kernel does: the weight is used, the module is not called
            patch.setattr(type(found[1].module.out_proj), "__call__", lambda self, x: self.forward(x))
        else:
            own = modelling(found[0]).causal_conv1d_fn.__wrapped__
            patch.setattr(modelling(found[0]), "causal_conv1d_fn", own)
        states(mamba2)
        with pytest.raises(UsageError, match=rf"{site} of layer 0 cannot be reached in .*Mamba2Mixer: 0 values"):
            quantized.check(IDS.numel())


def test_a_site_rounded_twice_is_an_error(mamba2: Any) -> None:
    found = mixers(mamba2)
    with fake_quantized(found, roundings(found, {"in_proj_in"})) as quantized:
        states(mamba2)
        states(mamba2)
        with pytest.raises(UsageError, match=r"in_proj_in of layer 0 .*: 1408 values"):
            quantized.check(IDS.numel())


def test_a_site_that_is_not_there_is_an_error(mamba2: Any) -> None:
    found = mixers(mamba2)
    wrong = {(7, "x_conv_in"): Rounding(INT4, np.ones(1), np.zeros(1))}
    with pytest.raises(UsageError, match="no such site: x_conv_in of layer 7"), fake_quantized(found, wrong):
        pass
    pre = {(0, "x_conv_pre"): Rounding(INT4, np.ones(1), np.zeros(1))}
    with pytest.raises(UsageError, match="x_conv_pre"), fake_quantized(found, pre) as quantized:  # noqa: PT012
        states(mamba2)
        quantized.check(IDS.numel())
