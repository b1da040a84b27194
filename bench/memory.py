"""Peak memory and time of calibrating networks of real sizes: the whole network at once, and layer by layer."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.race import table

ROOT = Path(__file__).resolve().parent.parent
# model, layers (null: all of them), samples of 512 tokens in one batch. Memory of the streamed mode does not depend
# on depth or on further batches, so that a few layers and one full batch show what a whole calibration needs.
CASES = [("130m", None, 8), ("1.3b", None, 1), ("2.7b", 2, 8), ("2.7b", 4, 8), ("8b", 2, 8)]
WHOLE = {("130m", None), ("1.3b", None)}  # those that are also held in memory at once


def peak() -> int:
    """Largest resident size of this process so far, bytes."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]


def measure(name: str, layers: int | None, samples: int, stream: bool) -> dict[str, Any]:
    """One calibration in this process; its weights are random, in bfloat16."""
    import numpy as np
    import yaml

    from sweep import config, streamed
    from sweep.calibrate import calibrate
    from sweep.models import load
    from sweep.tokens import Tokens

    geometry = yaml.safe_load((ROOT / f"conf/model/{name}.yaml").read_text())["geometry"]
    geometry |= {"n_layer": layers or geometry["n_layer"]}
    model = config.Model(name, geometry=geometry, weights="random", stream=stream)
    windows = np.random.default_rng(0).integers(0, 50000, (samples, 512))
    tokens, calibration = Tokens("random", tuple(windows)), config.Calibration(samples, 512, samples, 1)
    load.settings(model)
    before, begin = peak(), time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        if stream:
            _, spent = streamed.calibrate_streamed(
                model, "cpu", "bfloat16", tokens, calibration, lambda *_: None, Path(work) / "layers"
            )
        else:
            loaded = load.load(model, "cpu", "bfloat16")
            _, spent = calibrate(loaded, tokens, calibration, lambda *_: None)
    return {
        "model": name,
        "layers": geometry["n_layer"],
        "batch": f"{samples} x 512",
        "mode": "streamed" if stream else "whole",
        "peak, MB": round(peak() / 1e6),
        "of it before the start": round(before / 1e6),
        "wall clock, s": time.perf_counter() - begin,
        "forward and observe, s": spent.forward_s + spent.observe_s,
    }


def main() -> list[dict[str, Any]]:
    rows = []
    for name, layers, samples in CASES:
        for stream in (False, True) if (name, layers) in WHOLE else (True,):
            case = json.dumps([name, layers, samples, stream])
            done = subprocess.run(
                [sys.executable, "-m", "bench.memory", case], cwd=ROOT, capture_output=True, text=True
            )
            if done.returncode:
                raise RuntimeError(done.stderr)
            rows.append(json.loads(done.stdout))
    return table("Random weights in bfloat16 on the CPU; drawing them is part of the wall clock", rows)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(*json.loads(sys.argv[1]))))
    else:
        main()
