"""What observing every site of every layer adds to the forward pass it rides on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any

import torch

from bench import geometry
from bench.race import median, race, ratio, table
from sweep.calibration.observer import Observer
from sweep.calibration.taps import taps
from sweep.models.kernels.patch import kernels
from sweep.models.mixer import mixers

OPEN = ExitStack()


def forward(size: str, dtype: str, batch: int, how: str) -> Callable[[], None]:
    """A calibration's pass over one batch of 512-token windows: `alone`, `observed`, or with no more than the
    `absmax` of every site taken, which shows what it costs to load the values at all.

    What a calibration enters once, for all its batches, is entered here and never left."""
    lm = geometry.mamba2(size, dtype)
    found, ids, observer = mixers(lm), geometry.tokens(batch, 512), Observer()
    convolve = OPEN.enter_context(kernels(found, torch.device("cpu")))
    seen: dict[str, Any] = {
        "alone": nullcontext(),
        "observed": taps(found, observer, convolve, settle=observer.settle),
        "absmax": taps(found, lambda layer, site, x: torch.aminmax(x), convolve),
    }
    fired = OPEN.enter_context(seen[how])

    def step() -> None:
        with torch.inference_mode():
            lm.backbone(ids, use_cache=False)
            if fired:
                fired.check(ids.numel())
            observer.check(range(batch))

    return step


def main() -> list[dict[str, Any]]:
    rows = []
    for dtype, batch in (("float32", 1), ("float32", 8), ("bfloat16", 1)):
        shape = {"size": "130m", "dtype": dtype, "batch": batch}
        laps = race(
            {how: ("bench.observing:forward", {**shape, "how": how}) for how in ("alone", "observed", "absmax")},
            repeats=7,
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
