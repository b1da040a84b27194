"""Checkpoints in Quamba's layouts, written here key by key, through the command line and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hub_server
import numpy as np
import pyarrow.parquet as pq
import pytest
import small
import torch
from safetensors.torch import save_file

from sweep.runs.quamba.command import main
from tests.harness import Done, Run

LAYERS = 3
SMALL = ("calibration.samples=4", "calibration.seqlen=32", "calibration.folds=2", "calibration.batch_size=2")


@pytest.fixture
def quamba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `python -m sweep.quamba ARGUMENTS` in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str) -> Done:
        code = main(list(arguments))
        said = capsys.readouterr()
        return Done(arguments, code, said.out, said.err)

    return run


def conv1d(shape: tuple[int, ...] | None, seed: int) -> dict[str, Any]:
    """What `Quamb2Conv1D` stores: Python floats and buffers."""
    draw = torch.Generator().manual_seed(seed)
    ssd = shape[0] if shape else 1

    def scale(*size: int) -> torch.Tensor:
        return torch.rand(size, generator=draw) * 0.1 + 0.001

    state: dict[str, Any] = {name: scale(1).item() for name in ("x_scale", "B_scale", "C_scale")}
    state |= {
        name: scale(1).item() / 10 for name in ("wx_scale", "wB_scale", "wC_scale", "bx_scale", "bB_scale", "bC_scale")
    }
    state |= {"x_out_scales": scale(*(shape or (1,))), "B_out_scales": scale(ssd), "C_out_scales": scale(ssd)}
    if shape:
        state["x_head_group_range"] = torch.tensor([[2, 9, 17, 24]] * ssd, dtype=torch.int32)
        state["x_dim_group_range"] = torch.tensor([[[48, 60, 62, 64]] * 4] * ssd, dtype=torch.int32)
    state["weight"] = torch.randint(-127, 128, (1792, 4), dtype=torch.int8, generator=draw)
    return state


def checkpoint(path: Path, shape: tuple[int, ...] | None, where: str = "mixer") -> list[dict[str, Any]]:
    layers = [conv1d(shape, seed) for seed in range(LAYERS)]
    state = {f"backbone.layers.{i}.{where}.conv1d.{k}": v for i, layer in enumerate(layers) for k, v in layer.items()}
    state |= {"backbone.embedding.weight": torch.zeros(4, 4, dtype=torch.bfloat16)}
    state |= {f"backbone.layers.{i}.norm.output_scale": 0.05 for i in range(LAYERS)}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".bin":
        torch.save(state, path)
    else:
        save_file(
            {k: torch.as_tensor(v, dtype=torch.float64 if isinstance(v, float) else None) for k, v in state.items()},
            path,
        )
    return layers


def rows(directory: Path) -> dict[tuple[int, str], list[dict[str, Any]]]:
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in pq.read_table(directory / "scales.parquet").to_pylist():
        found.setdefault((row["layer"], row["site"]), []).append(row)
    return found


@pytest.mark.parametrize("where", ["mixer", "mixers.W4A8"])
@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("shape", [(1, 4, 4), (8, 4, 4), None])
def test_quamba2(quamba: Run, tmp_path: Path, shape: tuple[int, ...] | None, file: str, where: str) -> None:
    layers = checkpoint(tmp_path / "quamba2-x-w4a8" / file, shape, where)
    done = quamba("quamba2-x-w4a8")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs/quamba/quamba2-x-w4a8"
    found = rows(run)
    assert len(found) == LAYERS * 6
    for i, layer in enumerate(layers):
        for part in "xBC":
            (entered,) = found[i, f"{part}_conv_in"]
            assert entered["scale"] == layer[f"{part}_scale"]
            out = found[i, f"{part}_conv_out"]
            np.testing.assert_array_equal([r["scale"] for r in out], layer[f"{part}_out_scales"].flatten().double())
            assert all(r["weight_scale"] == layer[f"w{part}_scale"] for r in out)
            assert all(r["ratio"] == r["scale"] / r["weight_scale"] for r in out)
            assert all(r["clip"] == pytest.approx(127 * r["scale"]) for r in out)
        groups = [(r["ssd_group"], r["head_group"], r["dim_group"]) for r in found[i, "x_conv_out"]]
        assert groups == (list(np.ndindex(shape)) if shape else [(None, None, None)])
        # the table of the seed: ratio = mean of the scales after SiLU over the scale of the weights
        ratio = layer["x_out_scales"].mean().item() / layer["wx_scale"]
        assert f"{ratio:.2f}" in done.stdout
    assert f"({','.join(map(str, shape))})" in done.stdout if shape else "(1,)" in done.stdout
    assert "Not a scale of any activation" in done.stdout
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["config"]["granularity"]) == ("finished", "group" if shape else "tensor")


def test_quamba_of_mamba1(quamba: Run, tmp_path: Path) -> None:
    state = {}
    for i in range(2):
        state |= {
            f"backbone.layers.{i}.mixer.conv1d.{name}": 0.01 * (i + k)
            for k, name in enumerate(("input_scale", "output_scale", "weight_scale"), 1)
        }
    torch.save(state, tmp_path / "quamba-130m.bin")
    done = quamba("quamba-130m.bin")
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path / "runs/quamba/quamba-130m")
    assert {site for _, site in found} == {"x_conv_in", "x_conv_out"}
    assert found[1, "x_conv_out"][0]["scale"] == 0.03
    assert found[1, "x_conv_out"][0]["weight_scale"] == 0.04


def test_layers_without_activation_scales_are_named(quamba: Run, tmp_path: Path) -> None:
    checkpoint(tmp_path / "hybrid.bin", (1, 4, 4))
    state = torch.load(tmp_path / "hybrid.bin", weights_only=True)
    state |= {"backbone.layers.7.mixers.W4A16.conv1d.weight": torch.zeros(4, 1, 4)}
    torch.save(state, tmp_path / "hybrid.bin")
    done = quamba("hybrid.bin")
    assert "without activation scales: layers 7" in done.stdout


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("granularity", ["tensor", "group"])
def test_export_and_import_again(sweep: Run, quamba: Run, tmp_path: Path, granularity: str, ending: str) -> None:
    done = sweep(*SMALL, "method=minmax", f"granularity={granularity}", "hydra.run.dir=mine")
    assert done.returncode == 0, done.stderr
    done = quamba("export", "mine", "-o", f"back.{ending}")
    assert done.returncode == 0, done.stderr
    done = quamba(f"back.{ending}")
    assert done.returncode == 0, done.stderr
    mine, again = rows(tmp_path / "mine"), rows(tmp_path / "runs/quamba/back")
    assert len(again) == 7 * 6
    for key, saved in again.items():
        assert len(saved) == len(mine[key])
        for a, b in zip(saved, mine[key], strict=True):
            for name in ("ssd_group", "head_group", "dim_group"):
                # a tensor's B and C are one scale in both; Quamba2 numbers SSD groups only where x is grouped
                assert a[name] == b[name]
            assert a["scale"] == pytest.approx(b["scale"], rel=1e-7)  # float32 in Quamba's files
            assert a["weight_scale"] == b["weight_scale"]
    if granularity == "group":
        ours, theirs = (
            pq.read_table(tmp_path / p / "grouping.parquet").to_pylist() for p in ("mine", "runs/quamba/back")
        )
        for a, b in zip(ours, theirs, strict=True):
            assert (a["head_ends"], a["dim_ends"]) == (b["head_ends"], b["dim_ends"])
    if ending == "bin":
        state = torch.load(tmp_path / "back.bin", weights_only=True)
        first = state["backbone.layers.0.mixer.conv1d.x_scale"]
        assert isinstance(first, float)
        if granularity == "group":
            order = state["reorder_params.channel_index.0"]
            assert order.sort().values.equal(torch.arange(len(order)))


def test_each_mistake_is_one_line(quamba: Run, tmp_path: Path) -> None:
    good = tmp_path / "good.bin"
    checkpoint(good, (1, 4, 4))
    state = torch.load(good, weights_only=True)
    prefix = "backbone.layers.1.mixer.conv1d."
    wrong = {
        "nan.bin": ({f"{prefix}x_scale": float("nan")}, "x_scale is no scale"),
        "negative.bin": ({f"{prefix}B_out_scales": torch.tensor([-1.0])}, "B_out_scales is no scale"),
        "text.bin": ({f"{prefix}x_scale": "a lot"}, "x_scale is a str"),
        "ranges.bin": (
            {f"{prefix}x_head_group_range": torch.zeros(1, 3, dtype=torch.int32)},
            "x_head_group_range of shape",
        ),
        "shape.bin": ({f"{prefix}x_out_scales": torch.ones(4)}, "x_out_scales has shape"),
        "lacks.bin": ({f"{prefix}wx_scale": None}, "layer 1 lacks wx_scale"),
    }
    cases = {}
    for name, (change, message) in wrong.items():
        torch.save({**state, **change}, tmp_path / name)
        cases[name] = message
    (tmp_path / "truncated.bin").write_bytes(good.read_bytes()[:500])
    (tmp_path / "noise.safetensors").write_bytes(b"\x07" * 300)
    torch.save({"model.embed.weight": torch.zeros(2, 2)}, tmp_path / "foreign.bin")
    torch.save([1, 2], tmp_path / "list.bin")
    (tmp_path / "empty").mkdir()
    cases |= {
        "truncated.bin": "not a readable checkpoint",
        "noise.safetensors": "not a readable checkpoint",
        "foreign.bin": "no scales of Quamba",
        "list.bin": "holds a list",
        "empty": "no *.safetensors",
        "nowhere": "no such file",
    }
    for name, message in cases.items():
        done = quamba(name)
        assert done.returncode == 2, name
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("method=minmax", "granularity=channel"), "granularity=channel has no place"),
        (("format=int4",), "export a run with format=int8"),
    ],
)
def test_what_quamba_has_no_place_for(
    sweep: Run, quamba: Run, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert sweep(*SMALL, *arguments, "hydra.run.dir=mine").returncode == 0
    done = quamba("export", "mine")
    assert done.returncode == 2
    assert message in done.stderr


def test_nothing_of_another_name_s_is_replaced_unasked(sweep: Run, quamba: Run, tmp_path: Path) -> None:
    """Two checkpoints of one name are two runs, and a file that exists is no place for an export."""
    checkpoint(tmp_path / "a/model.safetensors", None)
    assert quamba("a", "--runs", "runs").returncode == 0
    (run,) = (tmp_path / "runs").iterdir()
    before = (run / "run.json").read_bytes()
    assert quamba("a", "--runs", "runs").returncode == 0  # the same again
    checkpoint(tmp_path / "a/model.safetensors", (1, 4, 4))
    before = (run / "run.json").read_bytes()
    done = quamba("a", "--runs", "runs")
    assert (done.returncode, (run / "run.json").read_bytes()) == (2, before)
    assert "--overwrite" in done.stderr
    assert quamba("a", "--runs", "runs", "--overwrite").returncode == 0
    assert sweep(*SMALL, "hydra.run.dir=cell").returncode == 0
    weights = (tmp_path / "a/model.safetensors").read_bytes()
    done = quamba("export", "cell", "-o", "a/model.safetensors")
    assert done.returncode == 2
    assert "exists" in done.stderr
    assert (tmp_path / "a/model.safetensors").read_bytes() == weights
    assert quamba("export", "cell", "-o", "a/model.safetensors", "--overwrite").returncode == 0


@pytest.mark.parametrize("groups", [2, 8])
def test_an_ungrouped_save_of_several_ssd_groups_says_which(quamba: Run, tmp_path: Path, groups: int) -> None:
    layer = conv1d(None, 0) | {f"{part}_out_scales": torch.arange(1.0, groups + 1) * 0.01 for part in "BC"}
    torch.save({f"backbone.layers.0.mixer.conv1d.{k}": v for k, v in layer.items()}, tmp_path / "plain.bin")
    done = quamba("plain.bin")
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path / "runs/quamba/plain")
    for part in "BC":
        assert [(r["ssd_group"], r["head_group"], r["dim_group"]) for r in found[0, f"{part}_conv_out"]] == [
            (g, None, None) for g in range(groups)
        ]
        scales = [r["scale"] for r in found[0, f"{part}_conv_out"]]
        np.testing.assert_allclose(scales, np.arange(1, groups + 1) * 0.01, rtol=1e-6)
    assert [r["ssd_group"] for r in found[0, "x_conv_out"]] == [None]
    assert json.loads((tmp_path / "runs/quamba/plain/run.json").read_text())["model"]["n_groups"] == groups


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_dead_layer_is_exported_with_quambas_floor(sweep: Run, quamba: Run, tmp_path: Path, ending: str) -> None:
    def kill(weights: dict[str, torch.Tensor]) -> None:
        for name in ("in_proj.weight", "conv1d.weight", "conv1d.bias"):
            weights[f"backbone.layers.2.mixer.{name}"].zero_()

    path = small.shipped(tmp_path / "half-dead", kill)
    done = sweep(*SMALL, "model=local", f"model.path={path}", "method=minmax", "hydra.run.dir=mine")
    assert done.returncode == 0, done.stderr
    done = quamba("export", "mine", "-o", f"back.{ending}")
    assert done.returncode == 0, done.stderr
    assert "dead: backbone.layers.2.mixer.conv1d.x_scale" in done.stdout
    assert "Quamba's floor" in done.stdout
    assert quamba(f"back.{ending}").returncode == 0  # which refuses a scale of 0
    found = rows(tmp_path / "runs/quamba/back")
    assert found[2, "x_conv_out"][0]["scale"] == pytest.approx(1e-6)
    assert found[2, "x_conv_out"][0]["weight_scale"] == pytest.approx(1e-5 / 127)
    assert found[1, "x_conv_out"][0]["scale"] > 1e-6


def test_a_repository_of_the_hub(quamba: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint(tmp_path / "made.bin", (1, 4, 4))
    files = {"pytorch_model.bin": (tmp_path / "made.bin").read_bytes(), "README.md": b"#", "figure.png": b"x" * 99}
    asked: list[str] = []
    with hub_server.serve({"models/ut-enyac/quamba2-130m-w4a8": files}, asked) as endpoint:
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        done = quamba("ut-enyac/quamba2-130m-w4a8")
        missing = quamba("ut-enyac/nothing")
    assert done.returncode == 0, done.stderr
    assert not any("png" in line for line in asked)
    run = tmp_path / "runs/quamba/quamba2-130m-w4a8"
    assert len(rows(run)[0, "x_conv_out"]) == 16
    grouping = json.loads((run / "run.json").read_text())["config"]["grouping"]
    assert grouping == {"head_groups": 4, "dim_groups": 4, "variant": "published"}
    assert missing.returncode == 2
    assert missing.stderr.count("\n") == 1
