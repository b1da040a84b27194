"""The two back ends agree: transformers here, the real mamba_ssm package in an environment of its own.

SWEEP_MAMBA_PYTHON names the interpreter of that environment; tools/mamba_ssm_env.sh builds it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pytest
import torch

from sweep.calibration.differentiate import differentiate
from sweep.calibration.taps import taps
from sweep.config import knobs
from sweep.evaluation.channel_quantizer import Rounding
from sweep.evaluation.fake_quant import fake_quantized
from sweep.models import load
from sweep.models.kernels.patch import kernels
from sweep.quantization.formats import FORMATS
from sweep.quantization.sites import quantized
from tests.harness import ROOT, require

pytestmark = pytest.mark.timeout(1200)  # the first test waits for all networks, kernel by kernel in an interpreter
IDS = np.random.default_rng(0).integers(0, 90, (2, 32))
GROUPS1 = layouts.MAMBA2 | {"ssm_cfg": layouts.MAMBA2["ssm_cfg"] | {"ngroups": 1}}
CHOSEN: dict[str, dict[str, Any]] = {
    "mamba1": layouts.MAMBA1,
    "mamba2-1group": GROUPS1 | {"n_layer": 1},
    "mamba2-2groups": layouts.MAMBA2,
    **{name: layouts.STACKS[name] | {"n_layer": 1} for name in ("layer norm", "norm before gate")},
    # what the others have alone, these have together
    **{name: layouts.STACKS[name] for name in ("mamba2attn", "interleaved", "all", "mamba1 with all around")},
    **{name: settings | {"n_layer": 2} for name, settings in layouts.STACKS.items() if name.startswith("first")},
}


def _quick(settings: dict[str, Any]) -> dict[str, Any]:
    """Four heads, and chunks as long as the texts: the interpreter computes each head and all of a chunk."""
    chunk = {"chunk_size": IDS.shape[1]} if settings["ssm_cfg"]["layer"] == "Mamba2" else {}
    return settings | {"d_model": 32, "ssm_cfg": settings["ssm_cfg"] | chunk}


NETWORKS = {name: _quick(settings) for name, settings in CHOSEN.items()}


def varied(state: layouts.State) -> layouts.State:
    """With norms and D that are not all ones, so that what reads them in another order is seen."""
    dice = torch.Generator().manual_seed(0)
    moved = {name for name in state if "norm" in name or name.endswith(".D")}
    return {n: t + 0.3 * torch.randn(t.shape, generator=dice) if n in moved else t for n, t in state.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    python = os.environ.get("SWEEP_MAMBA_PYTHON", "")
    require(python, "SWEEP_MAMBA_PYTHON is not set: build the environment with tools/mamba_ssm_env.sh")
    root = tmp_path_factory.mktemp("networks")
    np.save(root / "ids.npy", IDS)
    for name, settings in NETWORKS.items():
        (root / name).mkdir()
        layouts.mamba_ssm_bin(root / name, settings, varied(layouts.tensors(layouts.network(settings))))
    done = subprocess.run(
        [python, str(ROOT / "tests/parity/mamba_ssm_on_cpu.py"), str(root)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return root


def scales(values: np.ndarray) -> np.ndarray:
    magnitudes = np.abs(values.astype(np.float64)).ravel()
    return np.array([magnitudes.max(), np.quantile(magnitudes, 0.9995), np.quantile(magnitudes, 0.99)]) / 127


@pytest.mark.parametrize("name", NETWORKS)
def test_both_back_ends_see_the_same_values_at_every_site(folder: Path, name: str) -> None:
    model = load.load(knobs.Model("local", str(folder / name)), "cpu", "float32")
    mine: dict[str, np.ndarray] = {}
    with torch.inference_mode(), taps(model.mixers, lambda layer, site, x: mine.update({f"{layer} {site}": x.numpy()})):
        mine["hidden"] = model.backbone(torch.from_numpy(IDS)).numpy()
    theirs = np.load(folder / name / "seen.npz")
    assert set(theirs) == set(mine) | {"hidden, quantized"}
    assert len(mine) == 1 + sum(5 if mixer.family == "mamba1" else 11 for mixer in model.mixers)
    for site, own in mine.items():
        other = theirs[site]
        assert other.shape == own.shape, site
        error = np.abs(own - other).max() / np.abs(own).max()
        assert error < 2e-6, f"{site}: relative error {error:.1e}"
        np.testing.assert_allclose(scales(other), scales(own), rtol=1e-5, err_msg=site)


@pytest.mark.parametrize("name", NETWORKS)
def test_both_back_ends_are_quantized_alike(folder: Path, name: str) -> None:
    theirs = dict(np.load(folder / name / "seen.npz"))
    model = load.load(knobs.Model("local", str(folder / name)), "cpu", "float32")
    roundings = {}
    for layer, site in ((m.layer, site) for m in model.mixers for site in m.sites if site in quantized()):
        quantizer = FORMATS["int4"].place(0.0, float(np.abs(theirs[f"{layer} {site}"]).max()))
        roundings[layer, site] = Rounding(quantizer.format, np.array([quantizer.scale]), np.zeros(1))
    assert len(roundings) == len(model.mixers) * (4 if name.startswith("mamba1") else 8)
    with torch.inference_mode(), fake_quantized(model.mixers, roundings) as rounded:
        mine = model.backbone(torch.from_numpy(IDS)).numpy()
        rounded.check(IDS.size)
    other, plain = theirs["hidden, quantized"], theirs["hidden"]
    moved, apart = np.linalg.norm(other - plain), np.linalg.norm(mine - other)
    assert moved > 0.01 * np.linalg.norm(plain)
    # rounding in float32 puts a few values on the other side of a border
    assert apart < 0.05 * moved, f"{apart / moved:.3f}"


@pytest.mark.parametrize("name", NETWORKS)
def test_both_back_ends_have_the_same_gradients(folder: Path, name: str) -> None:
    model = load.load(knobs.Model("local", str(folder / name)), "cpu", "float32")
    mine: dict[str, np.ndarray] = {}

    def meet(layer: int, site: str, x: torch.Tensor, g: torch.Tensor) -> None:
        mine[f"{layer} {site}"] = np.stack([x.numpy().copy(), g.numpy().copy()])

    with kernels(model.mixers, model.device):
        differentiate(model, IDS[0], 0, 0, meet)
    theirs = np.load(folder / name / "gradients.npz")
    assert set(theirs) == set(mine)
    assert len(mine) == sum(4 if mixer.family == "mamba1" else 8 for mixer in model.mixers)
    seen = np.load(folder / name / "seen.npz")
    for site, (x, g) in mine.items():
        its_x, its_g = theirs[site]
        assert np.abs(its_x[0] - seen[site][0]).max() < 2e-6 * np.abs(its_x).max(), f"{site}: not what the taps saw"
        assert np.abs(x - its_x).max() < 2e-6 * np.abs(x).max()
        error = np.abs(g - its_g).max() / np.abs(g).max()
        assert error < 2e-5, f"{site}: relative error {error:.1e}"
