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
BATCH = 8  # windows of 512 tokens: calibration.batch_size as it is by default
WHOLE = (
    "130m", "370m", "780m", "1.3b", "2.7b", "mamba1-130m", "mamba1-370m", "mamba1-790m", "mamba1-1.4b", "mamba1-2.8b",
)  # fmt: skip
STREAMED = ("130m", "1.3b", "2.7b", "8b")
LONG, CUT = 512, 2  # samples of a full calibration, with so few layers that it does not take hours


def peak() -> int:
    """Largest resident size of this process so far, bytes."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]


def measure(
    name: str, stream: bool, samples: int = BATCH, layers: int | None = None, fisher: int = 0
) -> dict[str, Any]:
    """One calibration in this process; its weights are random, in bfloat16. fisher: samples to be differentiated."""
    import numpy as np
    import yaml

    from sweep.calibration import layerwise
    from sweep.calibration.loop import calibrate
    from sweep.calibration.tokens import Tokens
    from sweep.config import knobs
    from sweep.models import load, source

    geometry = yaml.safe_load((ROOT / f"conf/model/{name}.yaml").read_text())["geometry"]
    geometry["n_layer"] = layers or geometry["n_layer"]
    model = knobs.Model(name, geometry=geometry, weights="random", stream=stream)
    windows = np.random.default_rng(0).integers(0, 50000, (samples, 512))
    folds = min(8, samples // BATCH)
    tokens, calibration = Tokens("random", tuple(windows)), knobs.Calibration(samples, 512, BATCH, folds, fisher=fisher)
    source.settings(model)
    before, begin = peak(), time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        if stream:
            _, spent = layerwise.calibrate_streamed(
                layerwise.Streamed(model, "cpu", "bfloat16", Path(work) / "layers"),
                tokens,
                calibration,
                lambda *_: None,
            )
        else:
            loaded = load.load(model, "cpu", "bfloat16")
            _, spent = calibrate(loaded, tokens, calibration, lambda *_: None)
    seconds = spent.forward_s + spent.observe_s
    return {
        "model": name,
        "layers": geometry["n_layer"],
        "mode": "streamed" if stream else "whole",
        "samples": samples,
        "peak, GB": peak() / 1e9,
        "of it before the start": before / 1e9,
        "wall clock, s": time.perf_counter() - begin,
        "forward and observe, s a sample": seconds / samples,
        "the same, ms a layer": 1000 * seconds / samples / geometry["n_layer"],
        **({"differentiated": fisher, "squared gradients, s a sample": spent.fisher_s / fisher} if fisher else {}),
    }


def main() -> list[dict[str, Any]]:
    rows = []
    cases = [*((name, False) for name in WHOLE), *((name, True) for name in STREAMED)]
    for case in [*cases, *((name, True, LONG, CUT) for name in ("2.7b", "8b"))]:
        done = subprocess.run(
            [sys.executable, "-m", "bench.memory", json.dumps(case)], cwd=ROOT, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        rows.append(json.loads(done.stdout))
        print(rows[-1], file=sys.stderr, flush=True)
    return table(
        f"Batches of {BATCH} x 512 tokens, random weights in bfloat16 on the CPU; drawing them is in the wall clock",
        rows,
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(*json.loads(sys.argv[1]))))
    else:
        main()
