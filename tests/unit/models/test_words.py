"""Every setting of a config.json is heeded or refused by name; trainers' own names and places of tensors are read."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import families
import layouts
import numpy as np
import pytest
import tokenizers
import torch

from sweep.config import knobs
from sweep.core.errors import UsageError
from sweep.models import load
from sweep.models.mamba_ssm_config import to_transformers

IDS = torch.arange(24)[None]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def local(path: Path, **settings: Any) -> knobs.Model:
    return knobs.Model("local", str(path), **settings)


def written(path: Path, layout: layouts.Write, settings: dict[str, Any] = layouts.MAMBA2) -> Any:
    path.mkdir(parents=True, exist_ok=True)
    lm = layouts.network(settings)
    layout(path, settings, layouts.tensors(lm))
    return lm


def configure(path: Path, drop: tuple[str, ...] = (), **settings: Any) -> None:
    file = path / "config.json"
    kept = {key: value for key, value in json.loads(file.read_text()).items() if key not in drop}
    file.write_text(json.dumps(kept | settings))


def refused(path: Path, *said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load.load(local(path), "cpu", "float32")
    for text in said:
        assert text in str(caught.value)


# --- settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["norm_eps", "norm_epsilon", "layer_norm_epsilon", "rms_norm_eps"])
@pytest.mark.parametrize("settings", [layouts.MAMBA1, layouts.MAMBA2], ids=["mamba1", "mamba2"])
def test_the_epsilon_of_norms_is_read_under_every_name(tmp_path: Path, settings: dict[str, Any], key: str) -> None:
    original = written(tmp_path, layouts.transformers_safetensors, settings)
    configure(tmp_path, ("layer_norm_epsilon",), **{key: 0.1})
    for module in original.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 0.1
    with torch.inference_mode():
        assert torch.equal(load.load(local(tmp_path), "cpu", "float32").lm(IDS).logits, original(IDS).logits)


def test_two_epsilons_that_differ_are_refused(tmp_path: Path) -> None:
    written(tmp_path, layouts.transformers_safetensors)
    configure(tmp_path, norm_eps=1e-6)
    refused(tmp_path, "norm_eps=1e-06 contradicts layer_norm_epsilon=1e-05")
    configure(tmp_path, norm_eps=1e-5)
    load.load(local(tmp_path), "cpu", "float32")


@pytest.mark.parametrize("name", ["jamba", "bamba", "nemotron_h"])
def test_the_epsilon_of_a_hybrid_is_read(tmp_path: Path, name: str) -> None:
    next(f for f in families.FAMILIES if f.name == name).build().save_pretrained(tmp_path)
    own = next(
        k for k in ("layer_norm_epsilon", "rms_norm_eps") if k in json.loads((tmp_path / "config.json").read_text())
    )
    configure(tmp_path, (own,), norm_epsilon=0.25)
    assert getattr(load.settings(local(tmp_path)), own) == 0.25


def test_the_epsilon_in_mamba_ssms_layout(tmp_path: Path) -> None:
    written(tmp_path, layouts.mamba_ssm_bin, layouts.MAMBA1)
    configure(tmp_path, norm_epsilon=0.1)
    assert load.settings(local(tmp_path)).layer_norm_epsilon == 0.1
    configure(tmp_path, norm_eps=0.2)
    refused(tmp_path, "contradict each other")
    written(tmp_path / "second", layouts.mamba_ssm_bin, layouts.MAMBA2)
    configure(tmp_path / "second", norm_epsilon=1e-6)
    refused(tmp_path / "second", "norm_epsilon=1e-06", "allowed: 1e-05")


LAYOUTS = [layouts.transformers_safetensors, layouts.mamba_ssm_bin]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("key", ["residual_scale", "use_gelu", "dt_rank_multiplier", "attn_every"])
def test_an_unknown_setting_is_refused_by_name(tmp_path: Path, layout: layouts.Write, key: str) -> None:
    written(tmp_path, layout)
    configure(tmp_path, **{key: 2})
    refused(tmp_path, f"{key}=2", "may change activations")


@pytest.mark.parametrize("given", families.FAMILIES, ids=lambda f: f.name)
def test_of_every_family_an_unknown_setting_and_another_activation_are_refused(
    tmp_path: Path, given: families.Family
) -> None:
    given.build().save_pretrained(tmp_path)
    before = json.loads((tmp_path / "config.json").read_text())
    load.settings(local(tmp_path))
    configure(tmp_path, residual_scale=2)
    refused(tmp_path, "residual_scale=2")
    key = {"zamba": "hidden_mamba_act", "nemotron_h": "mamba_hidden_act"}.get(given.name, "hidden_act")
    (tmp_path / "config.json").write_text(json.dumps(before | {key: "gelu"}))
    if given.name == "zamba2":  # of its MLPs
        load.settings(local(tmp_path))
    else:
        refused(tmp_path, f"{key}=gelu is not supported")


def test_what_published_checkpoints_say_beside_is_no_obstacle(tmp_path: Path) -> None:
    first = {"d_model": 64, "n_layer": 2, "d_inner": 128, "ssm_cfg": {}, "rms_norm": True, "fused_add_norm": True}
    second = {"norm_before_gate": True, "rms_norm": True, "intermediate_size": 128, "torch_dtype": "bfloat16"}
    for number, (settings, more) in enumerate(((layouts.MAMBA1, first), (layouts.MAMBA2, second))):
        written(tmp_path / str(number), layouts.transformers_safetensors, settings)
        configure(tmp_path / str(number), **more)
        load.load(local(tmp_path / str(number)), "cpu", "float32")
    configure(tmp_path / "0", d_model=65)
    refused(tmp_path / "0", "d_model=65 contradicts hidden_size=64")
    configure(tmp_path / "1", intermediate_size=64)
    refused(tmp_path / "1", "intermediate_size=64", "allowed: 128")


def test_mamba_ssms_words_under_a_model_type(tmp_path: Path) -> None:
    written(tmp_path, layouts.mamba_ssm_bin)
    configure(tmp_path, model_type="mamba2")
    refused(tmp_path, "is mamba_ssm's word under model_type=mamba2", "remove model_type")


@pytest.mark.parametrize("layer", ["Mamba1", "Mamba2"])
def test_expand_need_not_be_whole(tmp_path: Path, layer: str) -> None:
    settings = layouts.MAMBA2 if layer == "Mamba2" else layouts.MAMBA1
    settings = settings | {"ssm_cfg": settings["ssm_cfg"] | {"expand": 1.5}}
    original = written(tmp_path, layouts.mamba_ssm_bin, settings)
    model = load.load(local(tmp_path), "cpu", "float32")
    assert model.mixers[0].d_inner == 96
    with torch.inference_mode():
        assert torch.equal(model.lm(IDS).logits, original(IDS).logits)


def test_settings_that_change_nothing_and_those_that_say_the_usual() -> None:
    ssm = layouts.MAMBA2["ssm_cfg"]
    same = to_transformers(layouts.MAMBA2).to_dict()
    for more in ({"d_ssm": 128}, {"sequence_parallel": True, "process_group": None}, {"dt_min": 0.1}):
        assert to_transformers(layouts.MAMBA2 | {"ssm_cfg": ssm | more}).to_dict() == same
    with pytest.raises(UsageError, match=r"ssm_cfg\.d_ssm=64 .* allowed: 128"):
        to_transformers(layouts.MAMBA2 | {"ssm_cfg": ssm | {"d_ssm": 64}})


def test_a_head_that_differs_from_the_embeddings_it_is_said_to_be_tied_to(tmp_path: Path) -> None:
    lm = layouts.network(layouts.MAMBA2)
    state = layouts.tensors(lm)
    (tmp_path / "config.json").write_text(json.dumps(layouts.MAMBA2))
    named = {name.replace("embeddings", "embedding"): value for name, value in state.items()}
    torch.save(named | {"lm_head.weight": state["backbone.embeddings.weight"] * 2}, tmp_path / "pytorch_model.bin")
    refused(tmp_path, "lm_head.weight differs")


# --- names and places of tensors ----------------------------------------------------------------------

PREFIXES = ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "model._orig_mod."]
FORMS: dict[str, Any] = {
    **{p: (lambda s, p=p: {p + n: w for n, w in s.items()}, "pytorch_model.bin") for p in PREFIXES},
    "no backbone": (lambda s: {n.removeprefix("backbone."): w for n, w in s.items()}, "pytorch_model.bin"),
    "model. for backbone.": (lambda s: {n.replace("backbone.", "model."): w for n, w in s.items()}, "a.bin"),
    "compiled layers": (lambda s: {n.replace(".mixer", "._orig_mod.mixer"): w for n, w in s.items()}, "a.pt"),
    "nested": (lambda s: {"model": s, "optimizer": {"state": {}}, "step": 3}, "pytorch_model.bin"),
    "Lightning": (
        lambda s: {
            "state_dict": {"model." + n: w for n, w in s.items()},
            "epoch": 1,
            "hyper_parameters": Namespace(lr=1e-3),
        },
        "last.ckpt",
    ),
    "pth": (dict, "model.pth"),
    "pt beside an optimizer": (dict, "model.pt"),
    "direct convolution": (lambda s: {n.replace("conv1d.", "conv1d_"): w for n, w in s.items()}, "a.bin"),
}


@pytest.mark.parametrize("form", FORMS)
def test_names_and_places_of_trainers(tmp_path: Path, form: str) -> None:
    wrap, file = FORMS[form]
    original = layouts.network(layouts.MAMBA2)
    named = {n.replace("embeddings", "embedding"): w for n, w in layouts.tensors(original).items()}
    (tmp_path / "config.json").write_text(json.dumps(layouts.MAMBA2))
    torch.save(wrap(named), tmp_path / file)
    torch.save({"state": {}}, tmp_path / "optimizer.pt")
    loaded = load.load(local(tmp_path), "cpu", "float32").lm.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in original.state_dict().items())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model."])
def test_wrappers_of_a_hybrid(tmp_path: Path, prefix: str) -> None:
    from safetensors.torch import load_file, save_file

    original = next(f for f in families.FAMILIES if f.name == "bamba").build()
    original.save_pretrained(tmp_path)
    tensors = {name: value.clone() for name, value in load_file(tmp_path / "model.safetensors").items()}
    save_file({prefix + name: value for name, value in tensors.items()}, tmp_path / "model.safetensors")
    loaded = load.load(local(tmp_path), "cpu", "float32").lm.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in original.state_dict().items())


def test_two_names_for_one_tensor_are_refused(tmp_path: Path) -> None:
    state = layouts.tensors(layouts.network(layouts.MAMBA2))
    (tmp_path / "config.json").write_text(json.dumps(layouts.MAMBA2))
    torch.save(state | {f"module.{n}": w * 2 for n, w in state.items()}, tmp_path / "pytorch_model.bin")
    refused(tmp_path, "twice, also as")


# --- Megatron -----------------------------------------------------------------------------------------


def iterations(path: Path, **arguments: Any) -> Any:
    """Two iterations of a Megatron checkpoint; the network of the second."""
    original = written(path, layouts.megatron, layouts.UNTIED)
    (path / "release").rename(path / "iter_0002000")
    file = path / "iter_0002000/mp_rank_00/model_optim_rng.pt"
    from sweep.models.tensors import megatron

    saved = megatron(file)
    settings = Namespace(**{k: v for k, v in vars(saved["args"]).items() if k != "kind"} | arguments)
    newer = {name: w.clone() for name, w in saved["model"].items() if w is not None}  # the file is mapped
    older = {name: w * 2 for name, w in newer.items()}
    del saved
    torch.save({"args": settings, "model": newer}, file)
    (path / "iter_0001000/mp_rank_00").mkdir(parents=True)
    torch.save({"args": settings, "model": older}, path / "iter_0001000/mp_rank_00/model_optim_rng.pt")
    (path / "latest_checkpointed_iteration.txt").write_text("2000\n")
    return original


def test_of_several_iterations_the_latest_is_taken(tmp_path: Path) -> None:
    expected = iterations(tmp_path).state_dict()
    for path in (tmp_path, tmp_path / "iter_0002000"):
        loaded = load.load(local(path), "cpu", "float32").lm.state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in expected.items())
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("3000")
    refused(tmp_path, "iter_0001000, iter_0002000", "says '3000'", f"model.path={tmp_path}/iter_0002000")
    (tmp_path / "latest_checkpointed_iteration.txt").unlink()
    refused(tmp_path, "to say which", f"model.path={tmp_path}/iter_0002000")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"norm_epsilon": 1e-6}, "norm_epsilon=1e-06"),
        ({"normalization": "LayerNorm"}, "normalization=LayerNorm"),
        ({"apply_layernorm_1p": True}, "apply_layernorm_1p=True"),
        ({"hybrid_override_pattern": "M*M-"}, "layers other than Mamba"),
    ],
)
def test_arguments_that_change_what_is_computed_are_refused(
    tmp_path: Path, arguments: dict[str, Any], said: str
) -> None:
    iterations(tmp_path, **arguments)
    refused(tmp_path, said)


# --- tokens -------------------------------------------------------------------------------------------


def test_special_tokens_may_lie_in_the_rows_that_fill_the_table(tmp_path: Path) -> None:
    written(tmp_path, layouts.mamba_ssm_bin)  # 97 words in 112 rows
    words = {f"w{i}": i for i in range(97)} | {"<|im_start|>": 97, "<|im_end|>": 111}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.save(str(tmp_path / "tokenizer.json"))
    assert np.array_equal(load.encoder(local(tmp_path))("<|im_start|> w5 <|im_end|>"), [97, 5, 111])
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words | {"<|x|>": 112}, unk_token="w0"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UsageError, match="token 112"):
        load.encoder(local(tmp_path))("<|x|>")
