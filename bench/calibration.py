"""A calibration against what its users do today: transformers' forward with a percentile observer, a pass per alpha.

Both observe the same sites of the 130m geometry. The other side takes each text's quantile at every site and
keeps a moving average, as Quamba does; it has to run again for every other alpha. Ours runs once, and reads all
alphas off the same histograms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import geometry
from bench.race import median, race, ratio, table
from sweep.calibration.tokens import Tokens
from sweep.config.knobs import Calibration
from sweep.models.load import Model
from sweep.models.mixer import mixers
from sweep.quantization.fold_sums import each

ALPHAS = (0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999, 0.99995, 0.99999, 0.999995, 0.999999, 1.0)
SAMPLES = 2


def _model() -> Model:
    lm = geometry.mamba2("130m")
    found = tuple(mixers(lm))
    backbone = lambda ids: lm.base_model(ids, use_cache=False)[0]  # noqa: E731
    return Model("130m", lm, backbone, found, torch.device("cpu"), "transformers")


def ours(alphas: list[float]) -> Callable[[], None]:
    """Calibrates, then reads a clip for each alpha and site."""
    from sweep.calibration.loop import calibrate

    model = _model()
    tokens = Tokens("random", tuple(np.asarray(geometry.tokens(SAMPLES, 512))))

    def step() -> None:
        statistics, _ = calibrate(model, tokens, Calibration(SAMPLES, 512, 1, 1), lambda *_: None)
        for site in statistics.sites.values():
            total = each(site.total)
            for alpha in alphas:
                total.abs_quantile(alpha)

    return step


def usual(alphas: list[float]) -> Callable[[], None]:
    """transformers' default forward, the sites hooked, a quantile of each text and a moving average; one alpha."""
    from sweep.calibration.taps import taps

    model, ids = _model(), geometry.tokens(SAMPLES, 512)
    (alpha,) = alphas

    def step() -> None:
        clips: dict[tuple[int, str], float] = {}

        def observe(layer: int, site: str, x: Tensor) -> None:
            q = float(torch.quantile(x.abs().flatten().float(), alpha))
            before = clips.setdefault((layer, site), q)
            clips[layer, site] = before + 0.01 * (q - before)

        with torch.inference_mode(), taps(model.mixers, observe):
            for text in ids:
                model.backbone(text[None])

    return step


def main() -> list[dict[str, Any]]:
    laps = race(
        {
            "one": ("bench.calibration:ours", {"alphas": [0.9995]}),
            "twelve": ("bench.calibration:ours", {"alphas": ALPHAS}),
            "usual": ("bench.calibration:usual", {"alphas": [0.9995]}),
        },
        repeats=3,
        foreign=["usual"],
    )
    rows = [
        {
            "": "one alpha",
            "ours, s": median(laps["one"]),
            "usual, s": median(laps["usual"]),
            "ratio": ratio(laps["usual"], laps["one"]),
            "at least": 3,
        },
        {
            "": "twelve alphas",
            "ours, s": median(laps["twelve"]),
            "usual, s": 12 * median(laps["usual"]),  # twelve of the same
            "ratio": 12 * ratio(laps["usual"], laps["twelve"]),
            "at least": 30,
        },
    ]
    return table(f"Mamba-2 130m geometry, {SAMPLES} x 512 tokens, float32, without lm_head on either side", rows)


if __name__ == "__main__":
    main()
