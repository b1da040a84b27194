"""One cell from the command line to its files, checked against numpy on the activations themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sweep.calibration import tokens
from sweep.config import knobs
from sweep.models import load
from sweep.models.kernels.patch import kernels
from sweep.quantization.replicates import rate_of_quantile
from sweep.runs.totals import Totals
from tests.harness import Run

TINY = knobs.Model("tiny", "pkg://sweep/models/tiny")
SMALL = ("calibration.samples=6", "calibration.seqlen=64", "calibration.folds=3", "calibration.batch_size=2")
PARTS = {"x": 384, "B": 64, "C": 64}


def activations(dtype: str) -> dict[tuple[int, str], np.ndarray]:
    """What the model itself computes, caught inside transformers: [sample, seq, channels] of every site.

    With the kernels that a calibration runs with; tests/parity holds those against transformers' own."""
    from transformers.models.mamba2 import modeling_mamba2 as own

    calibration = knobs.Calibration(samples=6, seqlen=64, folds=3, batch_size=2)
    windows = tokens.load(knobs.Data("stdlib"), load.encoder(TINY), calibration).windows
    model = load.load(TINY, "cpu", dtype)
    caught: dict[str, list[torch.Tensor]] = {"conv_in": [], "conv_pre": [], "conv_out": []}

    def watch(x, weight, bias=None, activation=None, **rest):  # type: ignore[no-untyped-def]
        out = convolution(x, weight, bias, activation=activation, **rest)
        caught["conv_in"].append(x.transpose(1, 2))
        caught["conv_pre"].append(convolution(x, weight, bias, activation=None).transpose(1, 2))
        caught["conv_out"].append(out.transpose(1, 2))
        return out

    projections: dict[tuple[int, str], list[torch.Tensor]] = {}
    for layer, block in enumerate(model.lm.backbone.layers):
        for name in ("in_proj", "out_proj"):
            seen = projections.setdefault((layer, f"{name}_in"), [])
            getattr(block.mixer, name).register_forward_pre_hook(lambda m, args, seen=seen: seen.append(args[0]))
    with torch.inference_mode(), kernels(model.mixers, model.device):
        convolution, own.causal_conv1d_fn = own.causal_conv1d_fn, watch
        for fold in range(3):  # the batches that the calibration makes: rounding depends on them
            model.lm(torch.from_numpy(np.stack([windows[fold], windows[fold + 3]])))
    found = {key: torch.cat(seen) for key, seen in projections.items()}
    layers = len(model.lm.backbone.layers)
    for stage, calls in caught.items():
        for layer in range(layers):
            pieces = torch.cat(calls[layer::layers]).split(list(PARTS.values()), -1)
            found |= {(layer, f"{part}_{stage}"): piece for part, piece in zip(PARTS, pieces, strict=True)}
    return {key: value.double().numpy() for key, value in found.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_tables_are_what_numpy_says_of_the_model_s_own_activations(sweep: Run, tmp_path: Path, dtype: str) -> None:
    done = sweep(*SMALL, f"dtype={dtype}", "alpha=0.999", "hydra.run.dir=out")
    assert done.returncode == 0, done.stderr
    rows = {(r["layer"], r["site"]): r for r in pq.read_table(tmp_path / "out/scales.parquet").to_pylist()}
    truth = activations(dtype)
    assert rows.keys() == truth.keys()
    weights = load.load(TINY, "cpu", dtype).lm
    # float32: the bin bound of the histogram; bfloat16: nothing is lost
    bound = 2**-10 if dtype == "float32" else 1e-12
    for (layer, site), x in truth.items():
        row = rows[layer, site]
        assert row["n"] == x.size
        assert (row["min"], row["max"], row["absmax"]) == (x.min(), x.max(), np.abs(x).max())
        how = "linear" if dtype == "float32" else "higher"
        clip = np.quantile(np.abs(x), 0.999, method=how)
        assert row["clip"] == pytest.approx(clip, rel=bound)
        assert row["scale"] == row["clip"] / 127
        q = np.clip(np.rint(x / row["scale"]), -127, 127)
        mse = np.square(x - q * row["scale"]).mean()
        assert row["mse"] == pytest.approx(mse, rel=0.01 if dtype == "float32" else 1e-9)
        assert row["sqnr_db"] == pytest.approx(10 * np.log10(np.square(x).mean() / mse), abs=0.05)
        # in float32 the clip's own bin is split by rule, not by its values: what it holds is the error
        own = (np.abs(np.abs(x) / row["clip"] - 1) <= 2 * bound).mean() if dtype == "float32" else 1e-12
        assert row["clip_fraction"] == pytest.approx((np.abs(x) > row["clip"]).mean(), abs=own)
        p = np.unique(q, return_counts=True)[1] / x.size
        assert row["code_entropy_bits"] == pytest.approx(-(p * np.log2(p)).sum(), abs=0.01)
        logs = np.log([np.quantile(np.abs(x[f * 2 : f * 2 + 2]), 0.999, method=how) for f in range(3)])
        without = (logs.sum() - logs) / 2 - logs.mean()  # how leaving out fold k moves the mean
        replicates = row["scale"] * np.exp(np.sqrt(3 * rate_of_quantile(0.001 * x.size, 3)) * without)
        error = np.sqrt(2 / 3 * np.square(replicates - replicates.mean()).sum())
        assert row["scale_se"] == pytest.approx(error, rel=0.05, abs=2 * bound * row["scale"])
        if site.endswith("conv_out"):
            part = site[0]
            start = {"x": 0, "B": 384, "C": 448}[part]
            w = weights.backbone.layers[layer].mixer.conv1d.weight[start : start + PARTS[part]]
            assert row["weight_scale"] == float(w.abs().max()) / 127
            assert row["ratio"] == row["scale"] / row["weight_scale"]
            assert row["silu_gain"] == row["scale"] / rows[layer, f"{part}_conv_pre"]["scale"] <= 1
        else:
            assert row["weight_scale"] is row["ratio"] is row["silu_gain"] is None


def test_a_cell_writes_what_is_promised_and_the_next_one_reads_the_calibration(sweep: Run, tmp_path: Path) -> None:
    first = sweep(*SMALL, "hydra.run.dir=a")
    assert first.returncode == 0, first.stderr
    assert "6/6 samples" in first.stderr
    assert "x_conv_out" in first.stdout
    second = sweep(*SMALL, "method=minmax", "hydra.run.dir=b")
    assert "samples" not in second.stderr  # no forward pass
    a, b = (json.loads((tmp_path / d / "run.json").read_text()) for d in "ab")
    table = tmp_path / "a" / "scales.parquet"
    assert Totals.from_dict(a["totals"]) == Totals.of(pq.read_table(table), table.stat().st_size)
    assert (a["status"], b["status"]) == ("finished", "finished")
    assert a["calibration"]["key"] == b["calibration"]["key"]
    assert (a["calibration"]["cached"], b["calibration"]["cached"]) == (False, True)
    assert a["tokens"]["count"] == 6 * 64
    assert a["model"]["n_layer"] == 7
    assert a["model"]["weights"] == "trained"
    scales = pq.read_table(tmp_path / "b/scales.parquet")
    assert scales["alpha"].null_count == len(scales)  # minmax reads no alpha, so none is claimed
    assert scales["clip"].to_pylist() == scales["absmax"].to_pylist()
    convergence = pq.read_table(tmp_path / "a/convergence.parquet").to_pylist()
    final = {(r["layer"], r["site"]): r["scale"] for r in convergence if r["folds"] == 3}
    assert final == {
        (r["layer"], r["site"]): r["scale"] for r in pq.read_table(tmp_path / "a/scales.parquet").to_pylist()
    }
    counts = pq.read_table(tmp_path / "a/histograms.parquet")["counts"].to_pylist()
    assert {sum(c) for c in counts} == {6 * 64 * 384}
