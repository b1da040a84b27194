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


def run(samples: int, folds: int = 0) -> dict[str, Any]:
    """`python -m sweep` in an empty directory: wall-clock seconds, peak memory, and the run's own timings."""
    command = [
        sys.executable,
        "-m",
        "sweep",
        f"calibration.samples={samples}",
        f"calibration.folds={folds}",
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
        "peak memory, MB": round(usage.ru_maxrss / 1024),
    }


def main() -> list[dict[str, Any]]:
    rows = [run(samples) for samples in (8, 64, 512)]
    # one fold, lest batches be smaller for few samples than for many
    peaks = [[run(samples, folds=1)["peak memory, MB"] for samples in (8, 16, 512)] for _ in range(REPEATS)]
    table("`python -m sweep` with the shipped model, nothing cached, W&B disabled (the last at most 60 s)", rows)
    one, two, many = (sorted(found) for found in zip(*peaks, strict=True))
    growth = [f"{100 * (median(many) / median(few) - 1):+.1f} %" for few in (one, two)]
    table(
        f"Peak memory with one fold and batches of 8, MB, {REPEATS} runs each",
        [
            {"samples": samples, "batches": samples // 8, "median": median(found), "from": found[0], "to": found[-1]}
            for samples, found in ((8, one), (16, two), (512, many))
        ],
    )
    print(
        f"Growth to 512 samples (at most 1 %): **{growth[0]}** from one batch of 8, **{growth[1]}** from two batches. "
        "What is kept grows with the bins in use, of which a site has 65,536 at most.\n"
    )
    return rows


if __name__ == "__main__":
    main()
