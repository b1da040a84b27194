"""Every layout gives the same network, bit for bit; damage is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import layouts
import pytest
import torch

from sweep.config import knobs
from sweep.core.errors import UsageError
from sweep.models import assemble, checkpoint_dir, load, mamba_ssm_backend, source
from sweep.models.mamba_ssm_config import to_transformers
from tests.harness import ROOT

IDS = torch.arange(24)[None]


def local(path: Path, **settings: Any) -> knobs.Model:
    return knobs.Model("local", str(path), **settings)


def write(path: Path, layout: layouts.Write, settings: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    path.mkdir(parents=True, exist_ok=True)
    lm = layouts.network(settings)
    layout(path, settings, layouts.tensors(lm, dtype))
    return lm


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


CASES = [
    *((layout, settings) for layout in layouts.LAYOUTS for settings in (layouts.MAMBA1, layouts.MAMBA2)),
    (layouts.mamba_ssm_bin, layouts.UNTIED),
    (layouts.megatron, layouts.UNTIED),
]


@pytest.mark.parametrize(
    ("layout", "settings"), CASES, ids=lambda c: getattr(c, "__name__", None) or f"{c['ssm_cfg']['layer']}"
)
def test_every_layout_gives_the_same_network(tmp_path: Path, layout: layouts.Write, settings: dict[str, Any]) -> None:
    original = write(tmp_path / "here", layout, settings)
    model = load.load(local(tmp_path / "here"), "cpu", "float32")
    expected = original.state_dict()
    loaded = model.lm.state_dict()
    assert loaded.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(loaded[name], value), name
    with torch.inference_mode():
        assert torch.equal(model.lm(IDS).logits, original(IDS).logits)
    tied = settings.get("tie_embeddings", True)
    assert (model.lm.lm_head.weight is model.lm.backbone.embeddings.weight) == tied


@pytest.mark.parametrize("layout", [*layouts.LAYOUTS, layouts.megatron], ids=lambda f: f.__name__)
def test_weights_arrive_in_the_dtype_asked_for(tmp_path: Path, layout: layouts.Write) -> None:
    original = write(tmp_path, layout, layouts.UNTIED, torch.float16)
    model = load.load(local(tmp_path), "cpu", "bfloat16")
    for name, parameter in model.lm.named_parameters():
        expected = original.get_parameter(name).to(torch.float16).to(torch.bfloat16)
        assert parameter.dtype is torch.bfloat16
        assert torch.equal(parameter, expected), name


# VmHWM, not ru_maxrss: that one survives exec and so begins at the test process's own
PEAK = """
import re, sys
from pathlib import Path
from sweep.config import knobs
from sweep.models import assemble, checkpoint_dir, load, source
from sweep.models.mamba_ssm_config import to_transformers
import transformers.models.bamba.modeling_bamba, transformers.models.mamba2.modeling_mamba2

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

model = knobs.Model("local", sys.argv[1])
source.settings(model)
before = peak()
lm = load.load(model, "cpu", "bfloat16").lm
print(peak() - before, sum(p.nbytes for p in lm.parameters()))
"""


def pure(path: Path, layout: layouts.Write) -> None:
    settings = layouts.MAMBA2 | {"d_model": 1024, "n_layer": 6, "ssm_cfg": {"layer": "Mamba2"}}
    shapes = assemble.shapes(assemble.skeleton(to_transformers(settings), "cpu"))
    layout(path, settings, {name: torch.ones(shape) for name, shape in shapes.items()})


def hybrid(path: Path, safetensors: bool) -> None:
    family = next(family for family in families.FAMILIES if family.name == "bamba")
    wide = {"hidden_size": 1024, "intermediate_size": 3072, "mamba_n_heads": 32, "mamba_d_head": 64}
    family = replace(family, settings=family.settings | wide)
    lm = family.build()
    lm.save_pretrained(path)
    if not safetensors:
        torch.save(lm.state_dict(), path / "pytorch_model.bin")
        (path / "model.safetensors").unlink()


WRITERS = {
    "mamba_ssm": lambda path: pure(path, layouts.mamba_ssm_bin),
    "transformers": lambda path: pure(path, layouts.transformers_safetensors),
    "hybrid": lambda path: hybrid(path, True),
    "hybrid in a pickle": lambda path: hybrid(path, False),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_loading_holds_no_weight_twice(tmp_path: Path, name: str) -> None:
    # 38 M float32 parameters, 150 MB on disk, loaded in bfloat16, 75 MB: a careless loader needs 225 MB (hybrid: 275)
    WRITERS[name](tmp_path)
    passing = 80e6 if "hybrid" in name else 50e6  # a float32 tensor, more of transformers, and what malloc makes of it
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak, size = map(int, done.stdout.split())
    assert size > 70e6
    assert peak < 1.2 * size + passing, f"peak {peak / 1e6:.0f} MB for {size / 1e6:.0f} MB of weights"


def test_identity_follows_weights_and_configuration_and_nothing_else(tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "a", layouts.mamba_ssm_bin, layouts.MAMBA2)
    write(tmp_path / "b", layouts.mamba_ssm_bin, layouts.MAMBA2)
    first = source.identity(local(tmp_path / "a"))
    assert first.startswith("sha256:")
    assert source.identity(local(tmp_path / "b")) == first
    (tmp_path / "b/README.md").write_text("a card")
    (tmp_path / "b/tokenizer_config.json").write_text("{}")
    assert source.identity(local(tmp_path / "b", stream=True)) == first
    data = (tmp_path / "b/pytorch_model.bin").read_bytes()
    (tmp_path / "b/pytorch_model.bin").write_bytes(data[:-3000] + bytes([data[-3000] ^ 1]) + data[-2999:])
    assert source.identity(local(tmp_path / "b")) != first
    (tmp_path / "a/config.json").write_text(json.dumps(layouts.MAMBA2 | {"residual_in_fp32": False}))
    assert source.identity(local(tmp_path / "a")) != first


def test_hashes_are_remembered(tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "a", layouts.mamba_ssm_bin, layouts.MAMBA2)
    first = source.identity(local(tmp_path / "a"))
    assert len(list(cache.rglob("sha256/*"))) == 2
    file = tmp_path / "a/pytorch_model.bin"
    time, size = file.stat().st_mtime_ns, file.stat().st_size
    with file.open("r+b") as stream:  # another content of the same size and time: only a second reading would see it
        stream.write(bytes(size))
    os.utime(file, ns=(time, time))
    assert source.identity(local(tmp_path / "a")) == first
    os.utime(file, ns=(time, time + 1))
    assert source.identity(local(tmp_path / "a")) != first


def test_random_weights_are_seeded_and_marked() -> None:
    shape = {"geometry": layouts.MAMBA2, "weights": "random"}
    model = knobs.Model("mine", **shape)
    assert model.name == "mine-random"
    assert knobs.Model(model.name, **shape).name == "mine-random"
    assert source.identity(model).startswith("random:seed=0:")
    other = knobs.Model("mine", seed=1, **shape)
    assert source.identity(other) != source.identity(model)
    one, two, three = (load.load(m, "cpu", "float32").lm.state_dict() for m in (model, model, other))
    name = "backbone.layers.1.mixer.in_proj.weight"
    assert torch.equal(one[name], two[name])
    assert not torch.equal(one[name], three[name])


def refused(path: Path, *said: str, device: str = "cpu", **settings: Any) -> None:
    with pytest.raises(UsageError) as caught:
        load.load(local(path, **settings), device, "float32")
    for text in said:
        assert text in str(caught.value)


def test_the_usual_file_is_taken_where_others_lie_beside_it(tmp_path: Path) -> None:
    original = write(tmp_path, layouts.transformers_safetensors, layouts.UNTIED)
    shutil.copy(tmp_path / "model.safetensors", tmp_path / "adapter_model.safetensors")
    assert checkpoint_dir.open_checkpoint(tmp_path).files == (tmp_path / "model.safetensors",)
    model = load.load(local(tmp_path), "cpu", "float32")
    assert torch.equal(model.lm.lm_head.weight, original.lm_head.weight)


def test_a_weight_in_two_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path, layouts.transformers_safetensors, layouts.UNTIED)
    (tmp_path / "model.safetensors").rename(tmp_path / "a.safetensors")
    shutil.copy(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    refused(tmp_path, f"is in {tmp_path / 'a.safetensors'} and in {tmp_path / 'b.safetensors'}: remove")


def test_missing_shards_are_named(tmp_path: Path) -> None:
    write(tmp_path, layouts.transformers_shards, layouts.MAMBA2)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    refused(tmp_path, "1 of 2 shards are missing: model-00002-of-00002.safetensors")


def test_parts_of_a_tensor_parallel_checkpoint_are_refused(tmp_path: Path) -> None:
    write(tmp_path, layouts.megatron, layouts.UNTIED)
    second = tmp_path / "release/mp_rank_01"
    second.mkdir()
    (second / "model_optim_rng.pt").write_bytes(b"")
    refused(tmp_path, "2 parts of a tensor-parallel checkpoint")


def test_an_unknown_architecture_lists_what_is_supported(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "hyena"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    refused(tmp_path, "hyena", "mamba2", "falcon_h1")


def test_a_model_without_a_mamba_mixer_is_refused(tmp_path: Path) -> None:
    settings = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    refused(tmp_path, "gpt2 has no Mamba mixer", "supported are mamba", weights="random")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ssm_cfg": {"layer": "Mamba3"}}, "Mamba1, Mamba2"),
        ({"attn_layer_idx": [1], "attn_cfg": {"num_heads": 0}}, "attn_cfg.num_heads=0"),
        ({"ssm_cfg": {"layer": "Mamba2", "norm_before_gate": 3}}, "ssm_cfg.norm_before_gate=3"),
        ({"ssm_cfg": {"layer": "Mamba2", "hedadim": 3}}, "hedadim"),
        ({"ssm_cfg": {"layer": "Mamba2", "headdim": 24}}, "inconsistent geometry"),
    ],
)
def test_settings_that_cannot_be_expressed_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write(tmp_path, layouts.mamba_ssm_bin, layouts.MAMBA2)
    (tmp_path / "config.json").write_text(json.dumps(layouts.MAMBA2 | change))
    refused(tmp_path, said)


def test_weights_of_another_geometry_are_refused(tmp_path: Path) -> None:
    write(tmp_path, layouts.mamba_ssm_bin, layouts.MAMBA2)
    (tmp_path / "config.json").write_text(json.dumps(layouts.MAMBA2 | {"n_layer": 1}))
    refused(tmp_path, "unknown to it: backbone.layers.1.")
    (tmp_path / "config.json").write_text(json.dumps(layouts.MAMBA2 | {"vocab_size": 512}))
    refused(tmp_path, "backbone.embeddings.weight is [112, 64] where [512, 64] was expected")


def test_back_ends_that_are_not_there_are_refused(tmp_path: Path) -> None:
    write(tmp_path, layouts.mamba_ssm_bin, layouts.MAMBA2)
    refused(tmp_path, "model.backend=mamba_ssm", backend="mamba_ssm")
    if not torch.cuda.is_available():
        refused(tmp_path, "sees no CUDA device", device="cuda")


def test_the_packages_that_transformers_computes_with_on_a_gpu_are_part_of_the_identity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = knobs.Model("tiny", "pkg://sweep/models/tiny", backend="transformers")
    without = {device: load.backend(model, device) for device in ("cpu", "cuda")}
    monkeypatch.setattr("sweep.models.mamba_ssm_backend.version", lambda: "causal_conv1d 1.7")
    assert load.backend(model, "cpu") == without["cpu"]
    assert load.backend(model, "cuda") != without["cuda"]


def test_a_package_that_does_not_tell_its_version_is_named_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: name == "causal_conv1d")
        patch.setattr("importlib.metadata.Distribution.discover", lambda **_: iter(()))
        assert mamba_ssm_backend.version() == "causal_conv1d unknown"


def test_running_out_of_memory_says_which_knob_to_turn() -> None:
    vast = layouts.MAMBA2 | {"vocab_size": 1 << 40}
    with pytest.raises(UsageError, match=r"out of memory.*model\.stream=true"):
        load.load(knobs.Model("vast", geometry=vast, weights="random"), "cpu", "float32")
