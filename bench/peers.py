"""Our observer against those of other projects, on the same tensors: time per value, and how far off their clips are.

Peers are extras (`pip install -e '.[bench]'`); one that is not installed is named in the table as missing.
The moving average is an implementation of our own, with torch's operations, of what Quamba documents: the clip
moves by a hundredth towards each text's quantile. A peer that must know alpha beforehand is run once for each.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.percentile import _order_statistic
from bench.race import median, race, ratio, table

ALPHAS = (0.99, 0.9995, 0.99999)
TEXTS, SEQ, CHANNELS = 16, 512, 1536
PEERS = {  # name → module it needs, None for those that are here
    "absmax, the limit": None,
    "ours": None,
    "moving average (Quamba's)": None,
    "ModelOpt max": "modelopt",
    "ModelOpt histogram": "modelopt",
    "torch.ao histogram": None,
    "Brevitas percentile": "brevitas",
}


def data(drift: bool) -> list[Tensor]:
    """16 texts [1, 512, 1536], heavy-tailed; with a gain that grows 25-fold, if wanted."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(CHANNELS, generator=generator).exp()
    texts = []
    for gain in torch.linspace(0.2, 5, TEXTS) if drift else torch.ones(TEXTS):
        x = torch.randn(1, SEQ, CHANNELS, generator=generator)
        texts.append(gain * spread * x * (1 + 0.1 * x * x))
    return texts


def absmax(texts: list[Tensor]) -> list[float]:
    largest = torch.zeros(())
    for x in texts:
        largest = torch.maximum(largest, torch.stack(torch.aminmax(x)).abs().max())
    return [float(largest)] * len(ALPHAS)


def ours(texts: list[Tensor]) -> list[float]:
    """As a site is observed, channels and all; one site is observed on one thread."""
    from sweep.observer import Observer

    observer = Observer()
    for i, x in enumerate(texts):
        observer(0, "x", x)
        observer.check([i])
    histogram = observer.finish()[0, "x"].histogram
    return [float(histogram.abs_quantile(alpha)) for alpha in ALPHAS]


def moving_average(texts: list[Tensor]) -> list[float]:
    clips = []
    for alpha in ALPHAS:
        clip = None
        for x in texts:
            q = float(torch.quantile(x.abs().flatten(), alpha))
            clip = q if clip is None else clip + 0.01 * (q - clip)
        clips.append(float(clip or 0))
    return clips


def modelopt_max(texts: list[Tensor]) -> list[float]:
    from modelopt.torch.quantization.calib import MaxCalibrator

    calibrator = MaxCalibrator()
    for x in texts:
        calibrator.collect(x)
    return [float(calibrator.compute_amax())] * len(ALPHAS)


def modelopt_histogram(texts: list[Tensor]) -> list[float]:
    from modelopt.torch.quantization.calib import HistogramCalibrator

    calibrator = HistogramCalibrator()
    for x in texts:
        calibrator.collect(x)
    return [float(calibrator.compute_amax("percentile", percentile=100 * alpha)) for alpha in ALPHAS]


def torch_ao(texts: list[Tensor]) -> list[float]:
    from torch.ao.quantization.observer import HistogramObserver

    observer = HistogramObserver(qscheme=torch.per_tensor_symmetric, dtype=torch.qint8)
    for x in texts:
        observer(x)
    scale, _ = observer.calculate_qparams()  # it minimizes an error of its own; there is no percentile
    return [float(scale) * 127.5] * len(ALPHAS)


def brevitas(texts: list[Tensor]) -> list[float]:
    from brevitas.core.stats import AbsPercentile

    found = []
    for alpha in ALPHAS:  # the mean over batches is what its calibration keeps
        peer = AbsPercentile(100 * alpha, None)
        found.append(float(np.mean([float(peer(x)) for x in texts])))
    return found


FUNCTIONS: dict[str, Callable[[list[Tensor]], list[float]]] = dict(
    zip(
        PEERS,
        (absmax, ours, moving_average, modelopt_max, modelopt_histogram, torch_ao, brevitas),
        strict=True,
    )
)


@cache
def exact(drift: bool) -> list[float]:
    ascending = np.sort(torch.cat(data(drift)).abs().flatten().numpy())
    return [_order_statistic(ascending, alpha, "linear") for alpha in ALPHAS]


def competitor(name: str) -> Callable[[], dict[str, float]]:
    """Observes all texts and reads off three percentiles; the errors are not part of the time."""
    warnings.simplefilter("ignore")
    texts, function = data(drift=False), FUNCTIONS[name]
    errors = {}
    for label, drift in (("", False), (" drifting", True)):
        clips = function(data(drift))
        errors |= {f"{a}{label}": 100 * (c / t - 1) for a, c, t in zip(ALPHAS, clips, exact(drift), strict=True)}

    def step() -> dict[str, float]:
        with torch.inference_mode(name in ("ours", "absmax, the limit")):
            function(texts)
        return errors

    return step


def main() -> list[dict[str, Any]]:
    here = [name for name, module in PEERS.items() if module is None or importlib.util.find_spec(module)]
    laps = race({name: ("bench.peers:competitor", {"name": name}) for name in here}, repeats=5)
    values = TEXTS * SEQ * CHANNELS
    rows = []
    for name in PEERS:
        if name not in laps:
            rows.append({"observer": f"{name}: not installed"})
            continue
        errors = {key: f"{value:+.3f}" for key, value in laps[name][0].items() if key.startswith("0.")}
        rows.append(
            {
                "observer": name,
                "ns/value": 1e9 * median(laps[name]) / values,
                "/ absmax": ratio(laps[name], laps["absmax, the limit"]),
                "/ ours": ratio(laps[name], laps["ours"]),
                **{f"error % at {key}": value for key, value in errors.items()},
            }
        )
    return table(f"Observing {values:,} float32 values and reading three percentiles", rows)


if __name__ == "__main__":
    main()
