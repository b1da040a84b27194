"""A cell from the command line: time, memory, and how both grow with the number of samples."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench.race import table

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 5  # of the growth of memory: from run to run the allocator alone makes a difference of some percent
SAMPLES = (8, 64, 512)
BATCHES = (1, 8)  # eight windows are one batch of eight, after which no memory has been used twice yet


def run(samples: int, folds: int = 0, batch: int = 8) -> dict[str, Any]:
    """`python -m sweep` in an empty directory: wall-clock seconds, peak memory, and the run's own timings."""
    command = [
        sys.executable,
        "-m",
        "sweep",
        f"calibration.samples={samples}",
        f"calibration.folds={folds}",
        f"calibration.batch_size={batch}",
        "wandb.mode=disabled",
        "hydra.run.dir=run",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as place:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        if status:
            raise RuntimeError(f"{' '.join(command)} failed")
        timings = json.loads((Path(place) / "run" / "run.json").read_text())["timings"]
    return {
        "samples x 512 tokens": samples,
        "wall clock, s": seconds,
        "processor, s": usage.ru_utime + usage.ru_stime,
        **{key.replace("_s", ", s"): value for key, value in timings.items()},
        "peak memory, MiB": round(usage.ru_maxrss / 1024),
    }


def main() -> list[dict[str, Any]]:
    rows = [run(samples) for samples in SAMPLES]
    # one fold, lest batches be smaller for few samples than for many
    peaks = {
        batch: [[run(samples, 1, batch)["peak memory, MiB"] for samples in SAMPLES] for _ in range(REPEATS)]
        for batch in BATCHES
    }
    table("`python -m sweep` with the shipped model, nothing cached, W&B disabled (the last at most 60 s)", rows)
    table(
        f"Peak memory with one fold, MiB, {REPEATS} runs each",
        [
            {"windows at a time": batch, "samples": samples, "median": median(mb), "from": min(mb), "to": max(mb)}
            for batch, found in peaks.items()
            for samples, mb in zip(SAMPLES, zip(*found, strict=True), strict=True)
        ],
    )
    for batch, found in peaks.items():
        few, *_, many = (median(mb) for mb in zip(*found, strict=True))
        print(f"Growth in batches of {batch} (at most 1 %): **{100 * (many / few - 1):+.1f} %**\n")
    return rows


if __name__ == "__main__":
    main()
