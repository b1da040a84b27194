"""mamba_ssm's networks beyond transformers' own models: loaded, streamed, evaluated, or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pytest
import torch
from torch import Tensor

from sweep.calibration.layerwise import Streamed, calibrate_streamed
from sweep.calibration.loop import calibrate
from sweep.calibration.taps import taps
from sweep.calibration.tokens import Tokens
from sweep.config import knobs
from sweep.core.errors import UsageError
from sweep.evaluation.channel_quantizer import Rounding
from sweep.evaluation.fake_quant import fake_quantized
from sweep.models import assemble, load, stack
from sweep.models.blocks import LM
from sweep.models.kernels.patch import kernels
from sweep.models.mixer import geometry, mixers
from sweep.models.random_weights import RandomWeights
from sweep.quantization import sites as registry
from sweep.quantization.formats import FORMATS
from sweep.quantization.granularity import by_channel

IDS = torch.arange(40).view(2, 20)
DICE = np.random.default_rng(0)
TOKENS = Tokens("random", tuple(DICE.integers(0, 90, length) for length in (24, 24, 17, 24, 9, 24)))
CALIBRATION = knobs.Calibration(samples=6, seqlen=24, batch_size=2, folds=2)


def local(path: Path, settings: dict[str, Any], **knob: Any) -> knobs.Model:
    layouts.mamba_ssm_bin(path, settings, layouts.tensors(layouts.network(settings)))
    return knobs.Model("local", str(path), **knob)


def observed(lm: Any) -> dict[tuple[int, str], Tensor]:
    seen: dict[tuple[int, str], Tensor] = {}
    with (
        torch.inference_mode(),
        kernels(mixers(lm), torch.device("cpu")) as convolve,
        taps(mixers(lm), lambda layer, site, x: seen.update({(layer, site): x.clone()}), convolve) as fired,
    ):
        seen[-1, "hidden"] = lm.backbone(IDS) if isinstance(lm, LM) else lm.base_model(IDS, use_cache=False)[0]
        fired.check(IDS.numel())
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", [layouts.MAMBA1, layouts.MAMBA2], ids=["mamba1", "mamba2"])
def test_within_transformers_means_it_is_transformers_model(settings: dict[str, Any], dtype: torch.dtype) -> None:
    """All but D x, which is added after the scan and not within it."""
    beyond = stack.shape(settings | {"d_intermediate": 1})
    own = stack.Stack(beyond.settings | {"d_intermediate": 0}, beyond.common)
    lm = assemble.network(stack.shape(settings), _drawn(stack.shape(settings)), dtype, "cpu")
    theirs = observed(lm)
    mine = observed(assemble.network(own, _drawn(own), dtype, "cpu"))
    assert mine.keys() == theirs.keys()
    for key, value in theirs.items():
        error = (mine[key].float() - value.float()).abs().max() / value.float().abs().max()
        assert error <= (1e-6 if dtype is torch.float32 else 2e-2), f"{key}: {error:.1e}"


def _drawn(shape: Any) -> RandomWeights:
    return RandomWeights(0, assemble.shapes(assemble.skeleton(shape, "cpu")))


@pytest.mark.parametrize("name", layouts.STACKS)
def test_it_loads_and_every_site_fires(tmp_path: Path, name: str) -> None:
    settings = layouts.STACKS[name]
    original = layouts.network(settings)
    model = load.load(local(tmp_path, settings), "cpu", "float32")
    for key, value in original.state_dict().items():
        assert torch.equal(model.lm.state_dict()[key], value), key
    seen = observed(model.lm)
    attention = set(settings.get("attn_layer_idx", ()))
    assert {layer for layer, _ in seen} == {-1, *range(settings["n_layer"])} - attention
    for mixer in model.mixers:
        assert seen[mixer.layer, "out_proj_in"].shape[-1] == 2 * settings["d_model"]
        assert seen[mixer.layer, "x_conv_out"].shape[-1] == settings["ssm_cfg"].get("d_ssm", 2 * settings["d_model"])


@pytest.mark.parametrize("name", layouts.STACKS)
def test_streamed_statistics_are_the_same_bytes(tmp_path: Path, name: str) -> None:
    given = local(tmp_path, layouts.STACKS[name], stream=True)
    whole, _ = calibrate(load.load(given, "cpu", "bfloat16"), TOKENS, CALIBRATION, lambda *_: None)
    at: list[tuple[int, int]] = []
    parts, _ = calibrate_streamed(
        Streamed(given, "cpu", "bfloat16", tmp_path / "work"), TOKENS, CALIBRATION, lambda *now: at.append(now)
    )
    whole.save(tmp_path / "whole")
    parts.save(tmp_path / "parts")
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    assert at[-1] == (6 * layouts.STACKS[name]["n_layer"],) * 2


@pytest.mark.parametrize("name", layouts.STACKS)
def test_every_site_can_be_quantized(tmp_path: Path, name: str) -> None:
    model = load.load(local(tmp_path, layouts.STACKS[name]), "cpu", "float32")
    seen = observed(model.lm)
    with torch.inference_mode(), kernels(model.mixers, model.device):
        for (layer, site), values in seen.items():
            if site in registry.quantized():
                scale = FORMATS["int4"].place(0.0, float(values.abs().max())).scale
                rounding = {(layer, site): Rounding(FORMATS["int4"], np.array([scale]), np.zeros(1))}
                with fake_quantized(model.mixers, rounding) as quantized:
                    moved = model.backbone(IDS)
                    quantized.check(IDS.numel())
                assert not torch.equal(moved, seen[-1, "hidden"]), (layer, site)
        assert torch.equal(model.backbone(IDS), seen[-1, "hidden"])


def test_channels_of_an_inner_mlp_have_no_head() -> None:
    (mixer, *_) = mixers(layouts.network(layouts.STACKS["inner mlp"]))
    places = [place for place, _ in by_channel("out_proj_in", 128, geometry(mixer))]
    assert places[:32] == [(-1, -1, channel) for channel in range(32)]
    assert places[32] == (0, 0, 0)
    assert places[-1] == (1, 2, 15)


def test_d_ssm_that_is_the_default_is_an_ordinary_network() -> None:
    ordinary = layouts.MAMBA2 | {"ssm_cfg": layouts.MAMBA2["ssm_cfg"] | {"d_ssm": 128}}
    assert not stack.needed(ordinary)
    assert stack.shape(ordinary).model_type == "mamba2"


ATTENTION = layouts.STACKS["attention"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (ATTENTION | {"attn_cfg": {}}, "attn_cfg.num_heads=None"),
        (ATTENTION | {"attn_cfg": {"num_heads": 5}}, "does not divide d_model=64"),
        (ATTENTION | {"attn_cfg": {"num_heads": 4, "num_heads_kv": 3}}, "num_heads_kv=3 does not divide 4 heads"),
        (ATTENTION | {"attn_cfg": {"num_heads": 4, "rotary_emb_dim": 32}}, "even, up to 16"),
        (ATTENTION | {"attn_cfg": {"num_heads": 4, "window": 8}}, "unknown attn_cfg settings: window"),
        (ATTENTION | {"attn_layer_idx": "1"}, "attn_layer_idx=1; allowed: a list of layers"),
        (layouts.MAMBA2 | {"d_intermediate": 1.5}, "d_intermediate=1.5; allowed: a whole number"),
        (layouts.MAMBA2 | {"rms_norm": "no"}, "rms_norm=no; allowed: true, false"),
        (layouts.MAMBA2 | {"ssm_cfg": layouts.MAMBA2["ssm_cfg"] | {"d_ssm": 100}}, "d_ssm=100; allowed: up to"),
        (layouts.MAMBA2 | {"ssm_cfg": layouts.MAMBA2["ssm_cfg"] | {"d_ssm": 160}}, "d_model = 128"),
        (layouts.MAMBA1 | {"ssm_cfg": {"rmsnorm": False}}, "rmsnorm=False"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        stack.shape(settings)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_another_epsilon_is_refused_and_not_ignored() -> None:
    settings = layouts.MAMBA1 | {"rms_norm": False, "norm_epsilon": 1e-6}
    with pytest.raises(UsageError, match=r"norm_epsilon=1e-06 is not supported beside rms_norm; allowed: 1e-05"):
        stack.shape(settings)
