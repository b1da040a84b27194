"""`python -m bench gpu [--quick]`: what the project claims of CUDA devices, checked and measured on the one here.

First observer and gradients against the CPU's, for every number format and family, then the table. Without a CUDA
device every function runs on the CPU all the same, on small shapes, so that the command is known to run; the kernels
run in numba's simulator; every figure says "not measured". --quick: fewer repeats, and of 2.7b fewer samples."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench import geometry, gpu_correctness
from bench.race import table
from sweep.calibration.observer import Observer
from sweep.calibration.taps import taps
from sweep.config import knobs
from sweep.models import load
from sweep.models.kernels.patch import kernels
from sweep.models.mixer import Mixer, mixers

ROOT = Path(__file__).resolve().parent.parent
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
QUICK = "--quick" in sys.argv
REPEATS = 5 if QUICK else 20
if not CUDA:
    REPEATS = 1


def seconds(*steps: Callable[[], Any]) -> list[float]:
    """The median time of each, interleaved, all that the device was given included."""
    laps: list[list[float]] = [[] for _ in steps]
    with torch.inference_mode():
        for lap in range(-2 if CUDA else 0, REPEATS):  # those before 0 warm up
            for step, own in zip(steps, laps, strict=True):
                _wait()
                begin = time.perf_counter()
                step()
                _wait()
                if lap >= 0:
                    own.append(time.perf_counter() - begin)
    return [median(own) for own in laps]


def _wait() -> None:
    if CUDA:
        torch.cuda.synchronize()


def _steps(found: tuple[Mixer, ...], backbone: Callable[[], Any], batch: int) -> list[Callable[[], None]]:
    """A pass over a batch, alone and with all sites observed."""
    observer = Observer()

    def run(observed: bool) -> None:
        with kernels(found, DEVICE, tensors=False) as convolve:
            seen = taps(found, observer, convolve, settle=observer.settle) if observed else nullcontext()
            with seen:
                backbone()
                observer.check(range(batch))

    return [lambda: run(False), lambda: run(True)]


def forwards() -> tuple[dict[str, float], float]:
    """Observed / alone of 130m in bfloat16, 8 x 512 tokens, by back end; and how many more kernels a mixer costs."""
    batch, seq, layers = (8, 512, 24) if CUDA else (2, 32, 1)
    ids = geometry.tokens(batch, seq).to(DEVICE)
    lm = geometry.mamba2("130m", "bfloat16", layers).to(DEVICE)
    steps = _steps(tuple(mixers(lm)), lambda: lm.base_model(ids, use_cache=False), batch)
    alone, observed = seconds(*steps)
    ratios = {"transformers": observed / alone}
    more = (_launches(steps[1]) - _launches(steps[0])) / layers
    if CUDA and importlib.util.find_spec("mamba_ssm") and importlib.util.find_spec("causal_conv1d"):
        model = load.load(_random("130m", "mamba_ssm"), "cuda", "bfloat16")
        alone, observed = seconds(*_steps(model.mixers, lambda: model.backbone(ids), batch))
        ratios["mamba_ssm"] = observed / alone
    return ratios, more


def _random(size: str, backend: str) -> knobs.Model:
    hidden, depth = geometry.SIZES[size]
    shape = {"d_model": hidden, "n_layer": depth, "vocab_size": 50277, "pad_vocab_size_multiple": 16}
    settings = {**shape, "ssm_cfg": {"layer": "Mamba2"}}
    return knobs.Model(size, geometry=settings, weights="random", backend=backend)


def _launches(step: Callable[[], Any]) -> int:
    """Kernels that the device ran; copies and fills are none."""
    activities = [torch.profiler.ProfilerActivity.CUDA if CUDA else torch.profiler.ProfilerActivity.CPU]
    with torch.inference_mode(), torch.profiler.profile(activities=activities) as profile:
        step()
        _wait()
    events = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return sum(not e.name.startswith(("Memcpy", "Memset")) for e in events)


def values() -> dict[str, float]:
    """Of eight sites' worth of bfloat16 values: observing / absmax, and peers / observing."""
    shape = (8, 512, 1536) if CUDA else (2, 32, 48)
    generator = torch.Generator().manual_seed(0)
    tensors = [(torch.randn(shape, generator=generator) * 0.3).bfloat16().to(DEVICE) for _ in range(8)]
    observer = Observer()

    def ours() -> None:
        for number, x in enumerate(tensors):
            observer(0, str(number), x)
        observer.settle()

    steps: dict[str, Callable[[], Any]] = {
        "ours": ours,
        "absmax": lambda: [torch.aminmax(x) for x in tensors],
        "torch.histc": lambda: [torch.histc(x.float().abs(), 2048) for x in tensors],
        "torch.bincount": lambda: [
            torch.bincount(x.view(torch.int16).flatten().int() + 32768, minlength=65536) for x in tensors
        ],
    }
    if importlib.util.find_spec("modelopt"):
        from modelopt.torch.quantization.calib import HistogramCalibrator

        peers = [HistogramCalibrator() for _ in tensors]
        steps["ModelOpt histogram"] = lambda: [p.collect(x) for p, x in zip(peers, tensors, strict=True)]
    spent = dict(zip(steps, seconds(*steps.values()), strict=True))
    found = {name: spent[name] / spent["ours"] for name in steps if name not in ("ours", "absmax")}
    return {"absmax": spent["ours"] / spent["absmax"], **found}


def command(size: str, samples: int) -> tuple[float, float]:
    """`python -m sweep` for a network of random weights: seconds without the imports, and the most memory that torch
    held on the device, GB. Without a device only that it runs."""
    size = size if CUDA else "130m"
    chosen = [f"model={size}", "model.weights=random", f"calibration.samples={samples}"]
    chosen = [*chosen, "device=cuda"] if CUDA else ["calibration.samples=4", "calibration.seqlen=32", "device=cpu"]
    program = (
        "import sys, time, torch, transformers, sweep.calibration.spec, sweep.runs.cell\n"
        "from sweep.__main__ import main\n"
        "begin = time.perf_counter(); main(sys.argv[1:]); spent = time.perf_counter() - begin\n"
        "peak = torch.cuda.max_memory_reserved() / 1e9 if torch.cuda.is_available() else 0\n"
        "print('measured', spent, peak)"
    )
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(
            [sys.executable, "-c", program, *chosen, "wandb.mode=disabled"],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    words = done.stdout.split("measured")[-1].split()
    return float(words[0]), float(words[1])


def main() -> list[dict[str, Any]]:
    begin = time.perf_counter()
    print(f"{where()}\n")
    title = "The device against the CPU, the same activations: counts and maxima equal, largest relative errors"
    table(
        title if CUDA else "No CUDA device: the CPU against itself, to show that the comparison runs",
        gpu_correctness.rows(DEVICE, 96 if CUDA else 16),
    )
    if not CUDA:
        gpu_correctness.simulated()
        print("In numba's simulator the kernels find what torch finds.\n")
    ratios, launches = forwards()
    tensors = values()
    whole, _ = command("130m", 512)
    _, peak = command("2.7b", 64 if QUICK else 512)
    forward = "observing all 11 sites of 24 layers / forward, 130m, 8 x 512, bfloat16"
    rows = [
        _row(f"{forward}: transformers", ratios.get("transformers"), 1.05),
        _row(f"{forward}: mamba_ssm with causal_conv1d", ratios.get("mamba_ssm"), 1.10),
        _row("one observed value / absmax of it by torch", tensors["absmax"], 4),
        _row("launches per mixer", launches, 6),
        _row("python -m sweep model=130m model.weights=random device=cuda, 512 x 512, after imports, s", whole, 15),
        _row(f"2.7b, 512 x 512{', the first 64' * QUICK}, bfloat16, peak memory, GB", peak, 16),
        *(_row(f"{p} / ours", tensors.get(p), 5, least=True) for p in ("ModelOpt histogram", "torch.histc")),
        _row("torch.bincount / ours", tensors["torch.bincount"], 5, least=True),
    ]
    print(f"All of it took {time.perf_counter() - begin:.0f} s.\n")
    return table(
        "On this device" if CUDA else "No CUDA device here: all ran on the CPU, on small shapes, nothing is measured",
        rows,
    )


def where() -> str:
    """The device and the versions that matter."""
    if not CUDA:
        return f"No CUDA device; torch {torch.__version__}, numba-cuda {metadata.version('numba-cuda')}"
    packages = ("triton", "numba-cuda", "mamba-ssm", "causal-conv1d", "nvidia-modelopt")
    found = []
    for package in packages:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"no {package}")
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, {', '.join(found)}"


def _row(what: str, measured: float | None, bound: float, least: bool = False) -> dict[str, Any]:
    figure: Any = measured if CUDA and measured is not None else "not measured"
    return {"what": what, "measured": figure, "target": f"at {'least' if least else 'most'} {bound:g}"}


if __name__ == "__main__":
    main()
