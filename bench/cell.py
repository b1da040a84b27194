"""A cell from the command line: time, memory, and how both grow with the number of samples."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.race import table

ROOT = Path(__file__).resolve().parent.parent


def run(directory: Path, samples: int, folds: int = 0) -> dict[str, Any]:
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
    place = directory / f"{samples}-{folds}"
    place.mkdir()
    begin = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    if status:
        raise RuntimeError(f"{' '.join(command)} failed")
    timings = json.loads((place / "run" / "run.json").read_text())["timings"]
    return {
        "samples x 512 tokens": samples,
        "wall clock, s": seconds,
        "processor, s": usage.ru_utime + usage.ru_stime,
        **{key.replace("_s", ", s"): value for key, value in timings.items()},
        "peak memory, MB": round(usage.ru_maxrss / 1024),
    }


def main() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as temporary:
        rows = [run(Path(temporary), samples) for samples in (8, 64, 512)]
        grown = [run(Path(temporary), samples, folds=1) for samples in (8, 512)]
    table("`python -m sweep` with the shipped model, nothing cached, W&B disabled (the last at most 60 s)", rows)
    # one fold, lest batches be smaller for few samples than for many
    few, many = (row["peak memory, MB"] for row in grown)
    print(
        f"Memory with 8 samples and with 512, in one fold and in batches of 8: {few} and {many} MB, "
        f"**{100 * (many / few - 1):+.1f} %** (at most 1)\n"
    )
    return rows


if __name__ == "__main__":
    main()
