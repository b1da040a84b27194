"""What a CUDA device finds, against what the CPU finds of the same activations and gradients."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import geometry
from sweep.calibration.differentiate import differentiate
from sweep.calibration.gradients import Gradients
from sweep.calibration.observer import Observer, SiteFold
from sweep.calibration.taps import taps
from sweep.models.kernels.patch import kernels
from sweep.models.load import Model
from sweep.models.mixer import mixers
from sweep.quantization.types import SiteKey
from tests.families import FAMILIES

ROOT = Path(__file__).resolve().parent.parent
DTYPES = ("float32", "bfloat16", "float16")
STEP = {"float32": 1e-3, "bfloat16": 2.0**-6, "float16": 2.0**-9}  # float32's own convolution may use TF32
SIMULATED = ("count_cuda_on_cpu.py", "weigh_cuda_on_cpu.py")


def networks() -> dict[str, Callable[[str], Any]]:
    """Two layers of either 130m, and a small network of each family of transformers, hybrids included."""

    def small(family: Any) -> Callable[[str], Any]:
        return lambda dtype: family.build(getattr(torch, dtype))

    return {
        "mamba1 130m": lambda dtype: geometry.mamba1("130m", dtype, 2),
        "mamba2 130m": lambda dtype: geometry.mamba2("130m", dtype, 2),
        **{family.name: small(family) for family in FAMILIES},
    }


def rows(device: torch.device, tokens: int) -> list[dict[str, Any]]:
    """A row for each network: the largest errors over all dtypes. Raises RuntimeError where one is beyond its bound.

    Bins, counts and maxima have to be equal, sums of |x| to 1e-5, of squared gradients to 1e-12; convolutions that are
    computed as they are counted have to agree with torch's to a step of their format."""
    table = []
    for name, build in networks().items():
        worst: dict[str, Any] = {"network": name, "sites": 0}
        for dtype in DTYPES:
            lm = build(dtype).to(device)
            model = Model(name, lm, _backbone(lm), tuple(mixers(lm)), device, "transformers")
            ids = torch.randint(3, 90, (2, tokens), generator=torch.Generator().manual_seed(1))
            errors = {"error of a sum of magnitudes": (_observed(model, ids), 1e-5)}
            if device.type == "cuda":
                errors["error of a convolution"] = (_convolved(model, ids), STEP[dtype])
            errors["error of a sum of squares"] = (_differentiated(model, ids[0]), 1e-12)
            for what, (error, bound) in errors.items():
                if not error <= bound:
                    raise RuntimeError(f"{name} {dtype} on {device}: {what} is {error:.1e}, {bound:.1e} at most")
                worst[what] = max(error, worst.get(what, 0.0))
            worst["sites"] = sum(len(mixer.sites) for mixer in model.mixers)
        table.append(worst)
    return table


def simulated() -> None:
    """The kernels on this CPU, in numba's simulator. Raises where they find something else than torch does."""
    for script in SIMULATED:
        path = ROOT / "tests" / "unit" / "calibration" / script
        environment = {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, str(path)], env=environment, check=True, stdout=subprocess.DEVNULL)


def _backbone(lm: Any) -> Callable[[Tensor], Tensor]:
    return lambda ids: lm.base_model(ids, use_cache=False)[0]  # type: ignore[no-any-return]


def _pass(
    model: Model, ids: Tensor, tensors: bool, *observers: tuple[Observer, bool]
) -> list[Mapping[SiteKey, SiteFold]]:
    """A fold of one pass by several observers; those with True are given the values on the CPU."""

    def observe(layer: int, site: str, x: Any) -> None:
        for observer, here in observers:
            observer(layer, site, x.cpu() if here else x)

    def settle() -> None:
        for observer, _ in observers:
            observer.settle()

    with (
        torch.inference_mode(),
        kernels(model.mixers, model.device, tensors) as convolve,
        taps(model.mixers, observe, convolve, settle=settle),
    ):
        model.backbone(ids.to(model.device))
        for observer, _ in observers:
            observer.check(range(len(ids)))
        return [observer.finish() for observer, _ in observers]


def _observed(model: Model, ids: Tensor) -> float:
    """The largest relative error of a sum of |x|; infinite where counts or maxima differ."""
    there, here = _pass(model, ids, True, (Observer(), False), (Observer(), True))
    error = 0.0
    for key, site in here.items():
        own = there[key]
        for mine, its in (
            (own.histogram.bins, site.histogram.bins),
            (own.histogram.counts, site.histogram.counts),
            (own.channel_absmax, site.channel_absmax),
        ):
            if not np.array_equal(mine, its):
                return np.inf
        error = max(error, _apart(own.channel_abs_sum, site.channel_abs_sum))
    return error


def _convolved(model: Model, ids: Tensor) -> float:
    """The largest difference of a site's absmax or sum of |x| from what it is with torch's convolution, relative to the
    site's largest."""
    (lazy,), (plain,) = (_pass(model, ids, tensors, (Observer(), False)) for tensors in (False, True))
    error = 0.0
    for key, site in plain.items():
        if lazy[key].histogram.n != site.histogram.n:
            return np.inf
        for mine, its in (
            (lazy[key].channel_absmax, site.channel_absmax),
            (lazy[key].channel_abs_sum, site.channel_abs_sum),
        ):
            error = max(error, float(np.abs(mine - its).max() / max(its.max(), 1e-30)))
    return error


def _differentiated(model: Model, ids: Tensor) -> float:
    """The largest relative error of a bin's sum of squared gradients; infinite where the bins differ."""
    there, here = Gradients(), Gradients()

    def meet(layer: int, site: str, x: Tensor, g: Tensor) -> None:
        there(layer, site, x, g)
        here(layer, site, x.cpu(), g.cpu())

    with kernels(model.mixers, model.device):
        differentiate(model, ids.numpy(), 0, 0, meet, there.settle)
    there.tokens = here.tokens = len(ids)
    mine, its = there.finish(), here.finish()
    error = 0.0
    for key, site in its.items():
        if not np.array_equal(mine[key].bins, site.bins):
            return np.inf
        error = max(error, _apart(mine[key].weights, site.weights))
    return error


def _apart(mine: Any, its: Any) -> float:
    return float(np.abs(mine / np.maximum(its, 1e-300) - (its > 0)).max(initial=0.0))
