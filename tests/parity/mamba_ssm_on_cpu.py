"""Runs a network of the real mamba_ssm package on the CPU, its Triton kernels in Triton's interpreter.

    python mamba_ssm_on_cpu.py FOLDER

FOLDER/ids.npy holds tokens, FOLDER/*/ checkpoints; beside each it writes what the taps saw, seen.npz, and the gradients
at the sites of the first text, gradients.npz.

The package is used as it is through `sweep.models.load`; only what assumes a GPU is replaced here: the compiled
selective scan (by the package's own reference), flash_attn's compiled attention (by nothing: mamba_ssm calls torch's),
CUDA's device context, and the search for the fastest launch.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported

import numpy as np
import torch
from triton.runtime import autotuner

for compiled in ("selective_scan_cuda", "flash_attn_2_cuda"):
    sys.modules[compiled] = types.ModuleType(compiled)
torch.cuda.device = lambda *_: contextlib.nullcontext()  # type: ignore[assignment, misc]
torch.cuda.get_device_properties = lambda *_: types.SimpleNamespace(multi_processor_count=1)  # type: ignore[assignment]
_init = autotuner.Autotuner.__init__


def _smallest_blocks(self: Any, fn: Any, names: Any, configs: list[Any], *args: Any, **kwargs: Any) -> None:
    """The interpreter computes whole blocks, whatever lies in them."""
    _init(self, fn, names, [min(configs, key=lambda c: math.prod(c.kwargs.values()))], *args, **kwargs)


autotuner.Autotuner.__init__ = _smallest_blocks  # type: ignore[method-assign]

from mamba_ssm.modules import mamba_simple  # noqa: E402
from mamba_ssm.ops.selective_scan_interface import selective_scan_ref  # noqa: E402

mamba_simple.selective_scan_fn = selective_scan_ref

from sweep.calibration.differentiate import differentiate  # noqa: E402
from sweep.calibration.taps import FUSED, taps  # noqa: E402
from sweep.config import knobs  # noqa: E402
from sweep.evaluation.channel_quantizer import Rounding  # noqa: E402
from sweep.evaluation.fake_quant import fake_quantized  # noqa: E402
from sweep.models import load  # noqa: E402
from sweep.quantization import sites  # noqa: E402
from sweep.quantization.formats import FORMATS  # noqa: E402


def int4(seen: Mapping[str, np.ndarray]) -> dict[tuple[int, str], Rounding]:
    """The rounding of every site that can be quantized, its largest value on the largest code."""
    found = {}
    for key, values in seen.items():
        layer, _, site = key.partition(" ")
        if site in sites.quantized():
            quantizer = FORMATS["int4"].place(0.0, float(np.abs(values).max()))
            found[int(layer), site] = Rounding(quantizer.format, np.array([quantizer.scale]), np.zeros(1))
    return found


def observe(checkpoint: Path, tokens: torch.Tensor) -> dict[str, np.ndarray]:
    """Every site, and the hidden states after the last norm, as they are and with every site in four bits."""
    model = load.load(knobs.Model("local", str(checkpoint), backend="mamba_ssm"), "cpu", "float32")
    assert type(model.mixers[0].module).__module__.startswith("mamba_ssm.")
    seen: dict[str, np.ndarray] = {}
    switches = [(m.module, name) for m in model.mixers for name in FUSED if hasattr(m.module, name)]
    assert switches
    assert all(getattr(*switch) for switch in switches), "fused paths are the package's default"

    def keep(layer: int, site: str, values: torch.Tensor) -> None:
        seen[f"{layer} {site}"] = values.numpy().copy()

    with torch.inference_mode(), taps(model.mixers, keep) as fired:
        seen["hidden"] = model.backbone(tokens).numpy()
        fired.check(tokens.numel())
    with torch.inference_mode(), fake_quantized(model.mixers, int4(seen)) as quantized:
        seen["hidden, quantized"] = model.backbone(tokens).numpy()
        quantized.check(tokens.numel())
    assert all(getattr(*switch) for switch in switches), "fused paths did not come back"
    return seen


def gradients(checkpoint: Path, tokens: torch.Tensor) -> dict[str, np.ndarray]:
    """Of every quantized site, for the first text."""
    model = load.load(knobs.Model("local", str(checkpoint), backend="mamba_ssm"), "cpu", "float32")
    met: dict[str, np.ndarray] = {}

    def meet(layer: int, site: str, x: torch.Tensor, g: torch.Tensor) -> None:
        met[f"{layer} {site}"] = np.stack([x.numpy().copy(), g.numpy().copy()])

    differentiate(model, tokens[0].numpy(), 0, 0, meet)
    return met


root = Path(sys.argv[1])
for folder in sorted(path.parent for path in root.glob("*/config.json")):
    ids = torch.from_numpy(np.load(root / "ids.npy"))
    np.savez(folder / "seen.npz", **observe(folder, ids))
    np.savez(folder / "gradients.npz", **gradients(folder, ids))
