"""What is not the weights of a network that can be observed is refused, each in words that name the cause."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import layouts
import pytest
import torch
from safetensors.torch import load_file, save_file

from sweep.config import knobs
from sweep.core.errors import UsageError
from sweep.models import checkpoint_dir, load, tokenizer, verify


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def local(path: Path) -> knobs.Model:
    return knobs.Model("local", str(path))


def refused(path: Path, *said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load.load(local(path), "cpu", "float32")
    for text in (*said,):
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def state(settings: dict[str, Any] = layouts.MAMBA2) -> layouts.State:
    return layouts.tensors(layouts.network(settings))


def written(path: Path, layout: layouts.Write = layouts.transformers_safetensors) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    layout(path, layouts.MAMBA2, state())
    return path


def configure(path: Path, **settings: Any) -> None:
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def family(name: str, **settings: Any) -> families.Family:
    chosen = next(f for f in families.FAMILIES if f.name == name)
    return replace(chosen, settings=chosen.settings | settings)


# --- quantized ----------------------------------------------------------------------------------------

SAID = [
    ({"quantization_config": {"quant_method": "fp8"}}, "float8"),
    ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "GPTQ"),
    ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "bitsandbytes"),
    ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
    ({"compression_config": {"format": "pack-quantized"}}, "pack-quantized"),
    ({"quantization": {"group_size": 64, "bits": 4}}, "4 bits"),
]


@pytest.mark.parametrize("layout", [layouts.transformers_safetensors, layouts.mamba_ssm_bin], ids=lambda f: f.__name__)
@pytest.mark.parametrize(("settings", "by"), SAID, ids=[by for _, by in SAID])
def test_a_configuration_that_says_quantized(
    tmp_path: Path, layout: layouts.Write, settings: dict[str, Any], by: str
) -> None:
    configure(written(tmp_path, layout), **settings)
    refused(tmp_path, "the checkpoint is quantized", by, "calibrate the unquantized original")


CODES = {
    "float8_e4m3": lambda w: (w * 100).to(torch.float8_e4m3fn),
    "float8_e5m2": lambda w: (w * 100).to(torch.float8_e5m2),
    "int8": lambda w: (w * 100).round().to(torch.int8),
    "uint8": lambda w: (w * 100).round().abs().to(torch.uint8),
    "int32": lambda w: (w * 100).round().to(torch.int32),
    "whole numbers in bfloat16": lambda w: (w * 100).round().to(torch.bfloat16),
}


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickle"])
@pytest.mark.parametrize("kind", CODES)
def test_codes_are_not_taken_for_weights(tmp_path: Path, kind: str, pickled: bool) -> None:
    written(tmp_path)
    tensors = {n: CODES[kind](w) if n.endswith("in_proj.weight") else w for n, w in state().items()}
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin") if pickled else save_file(
        tensors, tmp_path / "model.safetensors"
    )
    refused(tmp_path, "the checkpoint is quantized", "in_proj.weight")


def test_codes_are_not_taken_for_weights_of_a_hybrid(tmp_path: Path) -> None:
    family("falcon_mamba").build().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "backbone.layers.0.mixer.in_proj.weight"
    save_file(tensors | {name: (tensors[name] * 100).round().to(torch.int8)}, tmp_path / "model.safetensors")
    refused(tmp_path, "the checkpoint is quantized to I8", name)
    save_file(tensors | {f"{name}_scale_inv": torch.ones(1, 1)}, tmp_path / "model.safetensors")
    refused(tmp_path, "the checkpoint is quantized", "block-scaled float8")


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("backbone.layers.0.mixer.in_proj.qweight", "GPTQ or AWQ"),
        ("backbone.layers.0.mixer.in_proj.SCB", "bitsandbytes"),
        ("backbone.layers.0.mixer.in_proj.weight.absmax", "bitsandbytes"),
        ("backbone.layers.0.mixer.in_proj.weight_packed", "compressed-tensors"),
        ("backbone.layers.0.mixer.conv1d.x_out_scales", "python -m sweep.quamba"),
    ],
)
def test_names_that_only_a_quantizer_writes(tmp_path: Path, name: str, by: str) -> None:
    written(tmp_path)
    save_file(state() | {name: torch.ones(2, 2)}, tmp_path / "model.safetensors")
    refused(tmp_path, "the checkpoint is quantized", by)


def test_a_save_of_quamba_names_the_command_for_it(tmp_path: Path) -> None:
    settings = layouts.MAMBA2 | {"ssm_cfg": {"layer": [{"W4A8": "W4A8QMamba2"}]}, "is_hybrid": True}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    torch.save({"backbone.layers.0.mixer.conv1d.x_scale": 0.1}, tmp_path / "pytorch_model.bin")
    refused(tmp_path, "quantized (Quamba", f"python -m sweep.quamba {tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps(layouts.MAMBA2))
    refused(tmp_path, "quantized (Quamba", f"python -m sweep.quamba {tmp_path}")


# --- files and directories that are something else ----------------------------------------------------

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 258212352\n"
CONTENTS = [
    (POINTER, "git-lfs pointer"),
    (b"GGUF\3\0\0\0", "GGUF file"),
    (b"<!DOCTYPE html><html>", "a web page"),
    (b"", "is empty"),
    (bytes(500), "begins with zeros"),
    (b"\x1f\x8b\x08\0", "gzip archive"),
]


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "last.ckpt", "model.pth"])
@pytest.mark.parametrize(("content", "said"), CONTENTS, ids=[said for _, said in CONTENTS])
def test_a_file_of_weights_that_is_something_else(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(layouts.MAMBA2))
    (tmp_path / name).write_bytes(content)
    refused(tmp_path, str(tmp_path / name), said)


def test_a_pointer_in_place_of_a_small_file(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(POINTER)
    with pytest.raises(UsageError, match="git-lfs pointer"):
        load.encoder(local(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPTNeoXTokenizer"}')
    with pytest.raises(UsageError, match="git-lfs pointer"):
        load.encoder(local(tmp_path))
    (tmp_path / "config.json").write_bytes(POINTER)
    refused(tmp_path, "git-lfs pointer")


def test_an_index_that_is_none(tmp_path: Path) -> None:
    written(tmp_path, layouts.transformers_shards)
    for content, said in ((POINTER, "git-lfs pointer"), (b"[1]", "is no index"), (b'{"weight_map": {}}', "no shards")):
        (tmp_path / "model.safetensors.index.json").write_bytes(content)
        refused(tmp_path, said)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../elsewhere.safetensors"}}')
    refused(tmp_path, "shards lie beside their index")


@pytest.mark.parametrize("held", [[torch.zeros(2)], torch.zeros(2), 3, {"step": 3}, {"model": [1]}, {}], ids=str)
def test_a_pickle_that_holds_no_tensors_by_name(tmp_path: Path, held: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps(layouts.MAMBA2))
    torch.save(held, tmp_path / "pytorch_model.bin")
    refused(tmp_path, "pytorch_model.bin holds", "not tensors by name")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "last.ckpt", "model.pth"])
def test_nothing_in_a_pickle_is_run(tmp_path: Path, name: str) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "RAN"),)

    (tmp_path / "config.json").write_text(json.dumps(layouts.MAMBA2))
    torch.save({"state_dict": state(), "hyper_parameters": Evil()}, tmp_path / name)
    refused(tmp_path, "could run code")
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("adapter_config.json", "merge it into its base model"),
        ("model.Q4_K_M.gguf", "GGUF"),
        ("params.json", "Mistral's own layout"),
        ("__0_0.distcp", "distributed checkpoint"),
        ("model.onnx", "ONNX"),
    ],
)
@pytest.mark.parametrize("configured", [False, True])
def test_a_directory_that_is_something_else(tmp_path: Path, file: str, said: str, configured: bool) -> None:
    (tmp_path / file).write_text("{}")
    if configured:
        (tmp_path / "config.json").write_text(json.dumps(layouts.MAMBA2))
    refused(tmp_path, said)


@pytest.mark.parametrize("content", ["[]", '"mamba2"', "3"])
def test_a_configuration_that_is_no_dict(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    refused(tmp_path, "not the settings of a network")


# --- networks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hymba", "plamo2", "of_ones_own"])
def test_code_that_comes_with_a_checkpoint_is_never_run(tmp_path: Path, kind: str) -> None:
    mark = f"open({str(tmp_path / 'RAN')!r}, 'w')\n"
    (tmp_path / "configuration_x.py").write_text(mark)
    settings = {"model_type": kind, "auto_map": {"AutoConfig": "configuration_x.X"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    refused(tmp_path, f"model_type={kind}", "never run", "supported are")
    assert not (tmp_path / "RAN").exists()


def test_a_tokenizer_that_is_code_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    (tmp_path / "tok.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')\n")
    said = {"tokenizer_class": "XTok", "auto_map": {"AutoTokenizer": ["tok.XTok", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    with pytest.raises(UsageError, match=r"XTok is code .* never run; set model\.tokenizer"):
        tokenizer.encoder(tmp_path)
    assert not (tmp_path / "RAN").exists()


def test_mamba3_is_named(tmp_path: Path) -> None:
    for settings in ({"model_type": "mamba3"}, layouts.MAMBA2 | {"ssm_cfg": {"layer": "Mamba3"}}):
        (tmp_path / "config.json").write_text(json.dumps(settings))
        refused(tmp_path, "Mamba-3 is not supported")


def test_a_member_of_a_family_without_mamba_layers(tmp_path: Path) -> None:
    family("granitemoehybrid", layer_types=["attention"] * 3).build().save_pretrained(tmp_path)
    refused(tmp_path, "this granitemoehybrid has no Mamba layer", "attention")


# --- which files --------------------------------------------------------------------------------------


def test_of_two_indices_the_usual_one_is_taken(tmp_path: Path) -> None:
    written(tmp_path, layouts.transformers_shards)
    expected = checkpoint_dir.open_checkpoint(tmp_path).files
    other = {"metadata": {}, "weight_map": {"a": "consolidated-00001-of-00001.safetensors"}}
    (tmp_path / "consolidated.safetensors.index.json").write_text(json.dumps(other))
    save_file({"a": torch.ones(1)}, tmp_path / "consolidated-00001-of-00001.safetensors")
    assert checkpoint_dir.open_checkpoint(tmp_path).files == expected
    (tmp_path / "model.safetensors.index.json").rename(tmp_path / "a.safetensors.index.json")
    assert checkpoint_dir.open_checkpoint(tmp_path).files == expected
    shutil.copy(tmp_path / "a.safetensors.index.json", tmp_path / "b.safetensors.index.json")
    refused(tmp_path, "several indices", "a.safetensors.index.json, b.safetensors.index.json")


def test_only_what_will_be_read_is_fetched(tmp_path: Path) -> None:
    names = [p.name for p in written(tmp_path, layouts.transformers_shards).iterdir()]
    expected = sorted(name for name in names if name.startswith("model-"))
    more = ["README.md", "consolidated.safetensors", "model.fp16.safetensors", "pytorch_model.bin", "onnx/model.onnx"]
    more += ["tokenizer.json", "generation_config.json", "consolidated.safetensors.index.json", "training_args.bin"]
    read: list[str] = []

    def fetch(name: str) -> Path:
        read.append(name)
        return tmp_path / name

    chosen = checkpoint_dir.files_to_fetch(sorted(names + more), fetch, "there", tokenizer.FILES)
    assert sorted(chosen) == [*expected, "tokenizer.json"]
    assert read == ["config.json", "model.safetensors.index.json"]
    configure(tmp_path, quantization_config={"quant_method": "fp8"})
    with pytest.raises(UsageError, match="quantized"):  # before any weights come
        checkpoint_dir.files_to_fetch(sorted(names), fetch, "there", ())


# --- after loading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", families.FAMILIES, ids=lambda f: f.name)
def test_every_tensor_is_the_files_whatever_the_configuration_says_of_initial_ones(
    tmp_path: Path, given: families.Family
) -> None:
    original = given.build()
    original.save_pretrained(tmp_path)
    if "rescale_prenorm_residual" in json.loads((tmp_path / "config.json").read_text()):
        configure(tmp_path, rescale_prenorm_residual=True)
    lm = load.load(local(tmp_path), "cpu", "float32").lm
    expected = original.state_dict()
    assert lm.state_dict().keys() == expected.keys()
    for name, value in lm.state_dict().items():
        assert torch.equal(value, expected[name]), name
    source = checkpoint_dir.open_checkpoint(tmp_path)
    if given.name not in checkpoint_dir.STACKS:
        assert verify.differing(lm, source.weights) == []
        changed = next(p for n, p in lm.named_parameters() if "out_proj" in n)
        changed.data /= 2
        assert len(verify.differing(lm, source.weights)) == 1


def test_the_shipped_model_is_what_transformers_loads_by_itself() -> None:
    import transformers

    path = Path(load.__file__).parent / "tiny"
    lm = transformers.Mamba2ForCausalLM.from_pretrained(path)
    held = lm.state_dict()
    assert all(torch.equal(held[name], value) for name, value in load_file(path / "model.safetensors").items())
