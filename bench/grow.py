"""Growing a calibration against computing it anew, a sweep over sample counts against its largest cell, and how far the
forecast of samples is off. The shipped model, one process, an empty store each time."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from bench.grid import calibrating, command
from bench.race import table

REPEATS = 3
SEQLEN = 512
HALF, WHOLE = 128, 256
SIZES = (16, 32, 64, 128, 256)
FEW, MANY, FOLDS = 64, 512, 64  # samples that are forecast from; samples, and folds, that tell the truth
FACTOR = 1.5


def _run(name: str, samples: int | str, store: str, *more: str) -> float:
    given = (f"calibration.samples={samples}", f"calibration.seqlen={SEQLEN}", f"store={store}", *more)
    if isinstance(samples, str):
        return command("-m", *given, f"hydra.sweep.dir=runs/{name}")
    return command(*given, f"hydra.run.dir=runs/{name}")


def growing() -> list[dict[str, Any]]:
    _run("warm", 8, "warm")
    grown, swept, calibrated = [], [], []
    for i in range(REPEATS):
        anew = _run(f"anew{i}", WHOLE, f"anew{i}")
        _run(f"half{i}", HALF, f"grown{i}")
        grown.append(_run(f"grown{i}", WHOLE, f"grown{i}") / anew)
        swept.append(_run(f"all{i}", ",".join(map(str, SIZES)), f"all{i}") / anew)
        calibrated.append(calibrating(Path(f"runs/all{i}")) / calibrating(Path(f"runs/anew{i}")))
    sizes = ", ".join(map(str, SIZES))
    return [
        {"what": f"{WHOLE} samples after {HALF} / {WHOLE} from nothing", "value": median(grown), "at most": 0.55},
        {"what": f"a sweep over {sizes} samples / one cell of {WHOLE}", "value": median(swept), "at most": 1.10},
        {"what": "the same, time of calibrations alone", "value": median(calibrated), "at most": 1.10},
    ]


def _variance(name: str) -> np.ndarray[Any, Any]:
    """Squared standard error of every scale relative to it, of all folds."""
    rows = pq.read_table(f"runs/{name}/convergence.parquet").to_pandas()
    last = rows[rows.folds == rows.folds.max()].sort_values(["layer", "site"])
    return np.asarray((last.scale_se / last.scale) ** 2)


def forecasting() -> list[dict[str, Any]]:
    """What is forecast goes with the square of the error, times the samples it is an error of."""
    _run("few", FEW, "few")
    _run("many", MANY, "many", f"calibration.folds={FOLDS}")
    ratio = _variance("few") * FEW / (_variance("many") * MANY)
    ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
    near = np.maximum(ratio, 1 / ratio) <= FACTOR
    middle = float(np.median(ratio))
    return [
        {
            "what": f"forecast from {FEW} samples within {FACTOR}, % of sites",
            "value": 100 * float(near.mean()),
            "at least": 80,
        },
        {"what": "forecast / truth, median over sites", "value": middle, "at most": FACTOR},
    ]


def main() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        Path("runs").mkdir()
        rows = [*growing(), *forecasting()]
        os.chdir("/")
    return table("More samples of a stored calibration, with the shipped model (W&B disabled, one process)", rows)


if __name__ == "__main__":
    main()
