"""What observing every site of every layer adds to the forward pass it rides on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bench import geometry
from bench.race import median, race, ratio, table
from sweep.models.kernels import kernels
from sweep.observer import Observer
from sweep.sites import mixers
from sweep.taps import taps


def forward(size: str, dtype: str, batch: int, how: str) -> Callable[[], None]:
    """A calibration's pass over one batch of 512-token windows: `alone`, `observed`, or with no more than the
    `absmax` of every site taken, which shows what it costs to load the values at all."""
    lm = geometry.mamba2(size, dtype)
    found, ids, observer = mixers(lm), geometry.tokens(batch, 512), Observer()

    def alone() -> None:
        with torch.inference_mode(), kernels(found, torch.device("cpu")):
            lm.backbone(ids, use_cache=False)

    def observed() -> None:
        with (
            torch.inference_mode(),
            kernels(found, torch.device("cpu")) as convolve,
            taps(found, observer, convolve, settle=observer.settle) as fired,
        ):
            lm.backbone(ids, use_cache=False)
            fired.check(ids.numel())
            observer.check(range(batch))

    def absmax() -> None:
        with (
            torch.inference_mode(),
            kernels(found, torch.device("cpu")) as convolve,
            taps(found, lambda layer, site, x: torch.aminmax(x), convolve),
        ):
            lm.backbone(ids, use_cache=False)

    return {"alone": alone, "observed": observed, "absmax": absmax}[how]


def main() -> list[dict[str, Any]]:
    rows = []
    for dtype, batch in (("float32", 1), ("float32", 8), ("bfloat16", 1)):
        shape = {"size": "130m", "dtype": dtype, "batch": batch}
        laps = race(
            {how: ("bench.observing:forward", {**shape, "how": how}) for how in ("alone", "observed", "absmax")},
            repeats=7 if batch == 1 else 3,
        )
        rows.append(
            {
                "dtype": dtype,
                "batch": f"{batch} x 512",
                "forward alone, s": median(laps["alone"]),
                "observed, s": median(laps["observed"]),
                "observed / alone": ratio(laps["observed"], laps["alone"]),
                "at most": 1.05,
                "absmax of every site instead / alone": ratio(laps["absmax"], laps["alone"]),
                "observed / alone, processor time": ratio(laps["observed"], laps["alone"], "cpu"),
            }
        )
    return table("Mamba-2 130m geometry, all 11 sites of 24 layers", rows)


if __name__ == "__main__":
    main()
