"""Our observer against those of other projects, on the same tensors: time per value, and how far off their clips are.

The tensors are a layer's: several sites at a time, text after text, as a forward pass hands them over. A peer has an
observer for each site; ours takes the sites of a layer together, which is how it comes to use more than one thread.

Peers are extras (`pip install -e '.[bench]'`); one that is not installed is named in the table as missing.
The moving average is an implementation of our own, with torch's operations, of what Quamba documents: the clip
moves by a hundredth towards each text's quantile. A peer that must know alpha beforehand is run once for each.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.percentile import _order_statistic
from bench.race import median, race, ratio, table
from sweep.quantization.fold_sums import each

ALPHAS = (0.99, 0.9995, 0.99999)
SITES, TEXTS, SEQ, CHANNELS = 8, 16, 512, 1536
PEERS = {  # name → module it needs, None for those that are here
    "absmax, the limit": None,
    "ours": None,
    "ours, nothing read off": None,
    "moving average (Quamba's)": None,
    "ModelOpt max": "modelopt",
    "ModelOpt histogram": "modelopt",
    "torch.ao histogram": None,
    "Brevitas percentile": "brevitas",
}
SLOW = ("moving average (Quamba's)", "Brevitas percentile")  # in a race of their own, with fewer repeats


Layer = list[list[Tensor]]  # [texts][sites], each [1, 512, 1536]
Clips = list[list[float]]  # [sites][alphas]


def data(drift: bool) -> Layer:
    """Heavy-tailed values, with a gain that grows 25-fold over the texts, if wanted."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(CHANNELS, generator=generator).exp()

    def values(gain: Tensor) -> Tensor:
        x = torch.randn(1, SEQ, CHANNELS, generator=generator)
        return gain * spread * x * (1 + 0.1 * x * x)

    gains = torch.linspace(0.2, 5, TEXTS) if drift else torch.ones(TEXTS)
    return [[values(gain) for _ in range(SITES)] for gain in gains]


def absmax(layer: Layer) -> Clips:
    largest = [torch.zeros(())] * SITES
    for text in layer:
        for s, x in enumerate(text):
            largest[s] = torch.maximum(largest[s], torch.stack(torch.aminmax(x)).abs().max())
    return [[float(found)] * len(ALPHAS) for found in largest]


def observed(layer: Layer) -> Any:
    """As a layer is observed, channels and all."""
    from sweep.calibration.observer import Observer

    observer = Observer()
    for i, text in enumerate(layer):
        for s, x in enumerate(text):
            observer(0, str(s), x)
        observer.check([i])
    return observer


def ours(layer: Layer) -> Clips:
    sites = observed(layer).finish()
    read = [each(sites[0, str(s)].histogram) for s in range(SITES)]
    return [[float(histogram.abs_quantile(alpha)[0]) for alpha in ALPHAS] for histogram in read]


def moving_average(layer: Layer) -> Clips:
    found = []
    for s in range(SITES):
        found.append(clips := [0.0] * len(ALPHAS))
        for i, text in enumerate(layer):
            magnitudes = text[s].abs().flatten()
            for a, alpha in enumerate(ALPHAS):
                q = float(torch.quantile(magnitudes, alpha))
                clips[a] = clips[a] + 0.01 * (q - clips[a]) if i else q
    return found


def modelopt_max(layer: Layer) -> Clips:
    from modelopt.torch.quantization.calib import MaxCalibrator

    calibrators = _collected([MaxCalibrator() for _ in range(SITES)], layer)
    return [[float(c.compute_amax())] * len(ALPHAS) for c in calibrators]


def modelopt_histogram(layer: Layer) -> Clips:
    from modelopt.torch.quantization.calib import HistogramCalibrator

    calibrators = _collected([HistogramCalibrator() for _ in range(SITES)], layer)
    return [[float(c.compute_amax("percentile", percentile=100 * a)) for a in ALPHAS] for c in calibrators]


def _collected(calibrators: list[Any], layer: Layer) -> list[Any]:
    for text in layer:
        for calibrator, x in zip(calibrators, text, strict=True):
            calibrator.collect(x)
    return calibrators


def torch_ao(layer: Layer) -> Clips:
    from torch.ao.quantization.observer import HistogramObserver

    observers = [HistogramObserver(qscheme=torch.per_tensor_symmetric, dtype=torch.qint8) for _ in range(SITES)]
    for text in layer:
        for observer, x in zip(observers, text, strict=True):
            observer(x)
    # it minimizes an error of its own; there is no percentile
    return [[float(observer.calculate_qparams()[0]) * 127.5] * len(ALPHAS) for observer in observers]


def brevitas(layer: Layer) -> Clips:
    from brevitas.core.stats import AbsPercentile

    # the mean over batches is what its calibration keeps
    peers = [AbsPercentile(100 * alpha, None) for alpha in ALPHAS]
    return [[float(np.mean([float(peer(text[s])) for text in layer])) for peer in peers] for s in range(SITES)]


FUNCTIONS: dict[str, Callable[[Layer], Any]] = dict(
    zip(
        PEERS,
        (absmax, ours, observed, moving_average, modelopt_max, modelopt_histogram, torch_ao, brevitas),
        strict=True,
    )
)


def exact(layer: Layer) -> list[float]:
    """Percentiles of the first site."""
    ascending = np.sort(torch.cat([text[0] for text in layer]).abs().flatten().numpy())
    return [_order_statistic(ascending, alpha, "linear") for alpha in ALPHAS]


def competitor(name: str) -> Callable[[], dict[str, float]]:
    """Observes all texts and reads off three percentiles of each site; the errors, the first site's, are not part of
    the time."""
    warnings.simplefilter("ignore")
    function = FUNCTIONS[name]
    errors = {}
    for label, drift in ((" drifting", True), ("", False)):
        layer = data(drift)
        found = zip(ALPHAS, (ours if function is observed else function)(layer)[0], exact(layer), strict=True)
        errors |= {f"{alpha}{label}": 100 * (clip / truth - 1) for alpha, clip, truth in found}

    def step() -> dict[str, float]:
        with torch.inference_mode(function in (absmax, ours, observed)):
            function(layer)
        return errors

    return step


def main() -> list[dict[str, Any]]:
    here = [name for name, module in PEERS.items() if module is None or importlib.util.find_spec(module)]
    values = SITES * TEXTS * SEQ * CHANNELS
    found: dict[str, dict[str, Any]] = {name: {"observer": f"{name}: not installed"} for name in PEERS}
    for names, repeats in (([n for n in here if n not in SLOW], 21), (["absmax, the limit", "ours", *SLOW], 2)):
        names = [name for name in names if name in here]
        competitors = {name: ("bench.peers:competitor", {"name": name}) for name in names}
        laps = race(competitors, repeats, foreign=[name for name in names if FUNCTIONS[name] not in (ours, observed)])
        for name in names:
            if "ns/value" in found[name]:
                continue
            errors = {key: f"{value:+.3f}" for key, value in laps[name][0].items() if key.startswith("0.")}
            found[name] = {
                "observer": name,
                "ns/value": 1e9 * median(laps[name]) / values,
                "/ absmax": ratio(laps[name], laps["absmax, the limit"]),
                "/ ours": ratio(laps[name], laps["ours"]),
                **{f"error % at {key}": value for key, value in errors.items()},
            }
    rows = [found[name] for name in PEERS]
    return table(f"Observing {values:,} float32 values of {SITES} sites, and reading three percentiles of each", rows)


if __name__ == "__main__":
    main()
