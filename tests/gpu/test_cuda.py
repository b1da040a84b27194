"""On a machine with a CUDA device and `pip install -e '.[cuda]'`: `python -m pytest -m gpu`. Not run in CI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import layouts
import pytest
import torch

from sweep.calibration.taps import FUSED, taps
from sweep.config import knobs
from sweep.models import load
from sweep.models.kernels.patch import kernels

pytestmark = pytest.mark.gpu

IDS = torch.randint(0, 90, (2, 64), generator=torch.Generator().manual_seed(0))


def observe(model: load.Model) -> dict[tuple[int, str], torch.Tensor]:
    seen: dict[tuple[int, str], torch.Tensor] = {}
    ids = IDS.to(model.device)

    def keep(layer: int, site: str, values: torch.Tensor) -> None:
        seen[layer, site] = values.cpu()

    # on the CPU with the project's own: with causal_conv1d installed transformers' own asks for CUDA tensors there too
    with (
        torch.inference_mode(),
        kernels(model.mixers, model.device) as convolve,
        taps(model.mixers, keep, convolve) as fired,
    ):
        model.backbone(ids)
        fired.check(ids.numel())
    return seen


@pytest.mark.parametrize("settings", [layouts.MAMBA1, layouts.MAMBA2], ids=["mamba1", "mamba2"])
@pytest.mark.parametrize("backend", ["transformers", "mamba_ssm"])
def test_cuda_sees_what_the_cpu_sees(tmp_path: Path, backend: str, settings: dict[str, Any]) -> None:
    layouts.mamba_ssm_bin(tmp_path, settings, layouts.tensors(layouts.network(settings)))
    here = load.load(knobs.Model("local", str(tmp_path)), "cpu", "float32")
    there = load.load(knobs.Model("local", str(tmp_path), backend=backend), "cuda", "float32")
    assert there.backend == backend
    expected, seen = observe(here), observe(there)
    assert seen.keys() == expected.keys()
    for site, own in expected.items():
        error = float((seen[site] - own).abs().max() / own.abs().max())
        assert error < 2e-3, f"{site}: relative error {error:.1e}"  # TF32 matrix products, other orders of summation
    for mixer in there.mixers:
        assert all(getattr(mixer.module, name, True) for name in FUSED), "fused paths did not come back"
