"""A family of networks is one entry of `models.families`: here one whose mixer has names and an order of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import small
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, Mamba2Config, PreTrainedModel
from transformers.models.auto import configuration_auto, modeling_auto

from sweep.models.families import FAMILIES, Family
from sweep.models.mixer import Mixer
from tests.harness import Run

D_MODEL, D_INNER, HEADS, STATE = 32, 64, 4, 8
WIDTHS = (D_INNER, STATE, STATE, D_INNER, HEADS)  # x, B, C, z, dt: the gate comes after what is convolved


class ToyConfig(Mamba2Config):
    model_type = "toy_mamba"


def causal_conv1d_fn(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None) -> Tensor:
    """The convolution and its SiLU, [batch, channels, seq]."""
    out = F.conv1d(x, weight.unsqueeze(1), bias, padding=weight.shape[1] - 1, groups=len(weight))[..., : x.shape[2]]
    return F.silu(out) if activation == "silu" else out


class ToyMixer(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.enter = nn.Linear(D_MODEL, sum(WIDTHS), bias=False)
        self.mix = nn.Conv1d(sum(WIDTHS[:3]), sum(WIDTHS[:3]), 4, groups=sum(WIDTHS[:3]))
        self.leave = nn.Linear(D_INNER, D_MODEL, bias=False)
        self.rate = nn.Parameter(torch.zeros(HEADS))

    def forward(self, hidden: Tensor) -> Tensor:
        entered, z, dt = self.enter(hidden).split([sum(WIDTHS[:3]), D_INNER, HEADS], -1)
        convolved = causal_conv1d_fn(entered.mT, self.mix.weight.squeeze(1), self.mix.bias, activation="silu").mT
        x, b, c = convolved.split(WIDTHS[:3], -1)
        dt = F.softplus(dt)
        x, state, out = x.unflatten(-1, (HEADS, -1)), 0.0, []
        for t in range(hidden.shape[1]):
            decay = torch.exp(-dt[:, t] * self.rate.exp())[..., None, None]
            state = decay * state + (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, None, None]
            out.append((state * c[:, t, None, None]).sum(-1).flatten(1))
        return self.leave(torch.stack(out, 1) * F.silu(z))  # type: ignore[no-any-return]


class ToyBackbone(nn.Module):
    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, D_MODEL)
        self.layers = nn.ModuleList(ToyMixer(i) for i in range(config.num_hidden_layers))

    def forward(self, ids: Tensor, use_cache: bool = False) -> tuple[Tensor]:
        hidden = self.embeddings(ids)
        for layer in self.layers:
            hidden = hidden + layer(F.rms_norm(hidden, (D_MODEL,)))
        return (hidden,)


class ToyForCausalLM(PreTrainedModel):  # type: ignore[misc]
    config_class = ToyConfig
    base_model_prefix = "backbone"

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.backbone = ToyBackbone(config)
        self.lm_head = nn.Linear(D_MODEL, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        for parameter in module.parameters(recurse=False):
            nn.init.normal_(parameter, std=0.2)


def toy_mixer(module: Any) -> Mixer | None:
    """The adapter: which attributes do what, and where in the projection the convolved channels are."""
    if not isinstance(module, ToyMixer):
        return None
    return Mixer(
        layer=module.number,
        family="mamba2",
        module=module,
        in_proj=module.enter,
        conv1d=module.mix,
        out_proj=module.leave,
        d_inner=D_INNER,
        d_state=STATE,
        n_groups=1,
        n_heads=HEADS,
        entry=slice(0, sum(WIDTHS[:3])),
        parts=(("x", D_INNER), ("B", STATE), ("C", STATE)),
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The checkpoint, in transformers' format, and a text; transformers knows the class, as from a plug-in."""
    root = tmp_path_factory.mktemp("toy")
    AutoConfig.register("toy_mamba", ToyConfig, exist_ok=True)
    AutoModelForCausalLM.register(ToyConfig, ToyForCausalLM, exist_ok=True)
    torch.manual_seed(0)
    sizes = {"hidden_size": D_MODEL, "num_heads": HEADS, "head_dim": D_INNER // HEADS, "state_size": STATE}
    config = ToyConfig(vocab_size=264, num_hidden_layers=2, n_groups=1, tie_word_embeddings=False, **sizes)
    ToyForCausalLM(config).save_pretrained(root / "model")
    (root / "model/tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    small.text(root / "text.txt")
    yield root
    configuration_auto.CONFIG_MAPPING._extra_content.pop("toy_mamba")
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING._extra_content.pop(ToyConfig)


def test_without_an_entry_it_is_refused_by_name(sweep: Run, files: Path) -> None:
    done = sweep(*small.overrides(files))
    assert done.returncode == 2
    assert "toy_mamba has no Mamba mixer; supported are mamba, mamba2, " in done.stderr


def test_with_one_it_is_calibrated_differentiated_and_evaluated(
    sweep: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, "toy_mamba", Family("toy_mamba", mixer=toy_mixer))
    asked = ("calibration.fisher=4", "evaluate.perplexity=true", "evaluate.samples=4", "method=minmax")
    done = sweep(*small.overrides(files), *asked, "hydra.run.dir=cell")
    assert done.returncode == 0, done.stderr
    rows = {(r["layer"], r["site"]): r for r in pq.read_table(tmp_path / "cell/scales.parquet").to_pylist()}
    assert len(rows) == 2 * 11
    lm = ToyForCausalLM.from_pretrained(files / "model")
    own = lm.backbone.layers[1].mix.weight.detach()[:D_INNER].abs().max()
    assert rows[1, "x_conv_out"]["weight_scale"] == pytest.approx(float(own) / 127)
    assert all(r["loss"] > 0 for (_, site), r in rows.items() if not site.endswith("_pre"))
    record = json.loads((tmp_path / "cell/run.json").read_text())
    assert record["evaluation"]["kl"] > 0
    assert len(record["evaluation"]["sites"]) == 8


def test_its_sites_are_the_networks_own_values(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sweep.calibration.taps import taps
    from sweep.config.knobs import Model
    from sweep.models import load

    monkeypatch.setitem(FAMILIES, "toy_mamba", Family("toy_mamba", mixer=toy_mixer))
    model = load.load(Model("toy", str(files / "model")), "cpu", "float32")
    seen: dict[Any, Tensor] = {}
    with taps(model.mixers, lambda layer, site, x: seen.update({(layer, site): x})), torch.inference_mode():
        model.backbone(torch.arange(20)[None])
    mixer = model.lm.backbone.layers[0]
    entered = F.rms_norm(model.lm.backbone.embeddings(torch.arange(20)[None]), (D_MODEL,))
    convolved = mixer.enter(entered)[..., : sum(WIDTHS[:3])]
    pre = causal_conv1d_fn(convolved.mT, mixer.mix.weight.squeeze(1), mixer.mix.bias).mT
    pieces = {"conv_in": convolved, "conv_pre": pre, "conv_out": F.silu(pre)}
    for stage, tensor in pieces.items():
        for part, piece in zip("xBC", tensor.split(WIDTHS[:3], -1), strict=True):
            torch.testing.assert_close(seen[0, f"{part}_{stage}"], piece, rtol=1e-6, atol=1e-6)
    assert torch.equal(seen[0, "in_proj_in"], entered)
