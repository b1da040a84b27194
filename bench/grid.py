"""A grid against one cell, the plan of a thousand cells, and what the store costs at the 130m geometry."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from bench import geometry
from bench.race import table
from sweep.calibration import cache as store
from sweep.calibration.cache import CalibrationStore
from sweep.calibration.checkpoint import Checkpoint
from sweep.calibration.loop import calibrate
from sweep.calibration.tokens import Tokens
from sweep.config.knobs import Calibration
from sweep.core.store_key import Key
from sweep.models.load import Model
from sweep.models.mixer import mixers

ALPHAS = "0.9,0.95,0.98,0.99,0.995,0.998,0.999,0.9995,0.9998,0.9999,0.99995,0.99999"
FORMATS = "int8,int4"
REPEATS = 5
SAMPLES = 64  # of 512 tokens, for the grid
DEFAULT = 512  # samples of a calibration as configured, at the 130m geometry


def command(*arguments: str) -> float:
    """Seconds of `python -m sweep ARGUMENTS` in this process, imports not counted."""
    from hydra.core.global_hydra import GlobalHydra

    from sweep.__main__ import main

    sys.argv = ["sweep", *arguments, "wandb.mode=disabled"]
    begin = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main()
    GlobalHydra.instance().clear()
    return time.perf_counter() - begin


def calibrating(sweep: Path) -> float:
    """Seconds that all cells of a sweep together spent on calibrations, storing and reading them included."""
    timings = [json.loads(path.read_text())["timings"] for path in sweep.rglob("run.json")]
    return sum(t[key] for t in timings for key in ("load_s", "forward_s", "observe_s", "store_s"))


def grid() -> list[dict[str, Any]]:
    """24 cells (12 alphas x 2 formats) and one cell, in turn, each time with an empty store."""
    size, cells = f"calibration.samples={SAMPLES}", len(ALPHAS.split(",")) * len(FORMATS.split(","))
    command("calibration.samples=8", "store=warm", "hydra.run.dir=warm")
    ratios, followers = [], []
    for i in range(REPEATS):
        one = command(size, f"store=one{i}", f"hydra.run.dir=runs/one{i}")
        grid = (f"alpha={ALPHAS}", f"format={FORMATS}", f"store=all{i}", f"hydra.sweep.dir=runs/all{i}")
        all_of_them = command("-m", size, *grid)
        ratios.append(calibrating(Path(f"runs/all{i}")) / calibrating(Path(f"runs/one{i}")))
        followers.append((all_of_them - one) / (cells - 1))
    return [
        {"what": f"calibration time, {cells} cells / 1 cell", "value": median(ratios), "at most": 1.10},
        {"what": "seconds per follower", "value": median(followers), "at most": 0.5},
    ]


def plan() -> list[dict[str, Any]]:
    alphas = ",".join(f"{0.9 + i * 1e-4:.4f}" for i in range(500))
    seconds = command("-m", f"alpha={alphas}", f"format={FORMATS}", "hydra.sweeper.dry_run=true")
    return [{"what": "seconds for a plan of 1,000 cells, shown", "value": seconds, "at most": 5.0}]


def storing(dtype: str) -> list[dict[str, Any]]:
    """A calibration as large as the default, since what is stored grows with the digits of the counts."""
    lm = geometry.mamba2("130m", dtype, chunk=64)
    backbone = lambda ids: lm.base_model(ids, use_cache=False)[0]  # noqa: E731
    model = Model("130m", lm, backbone, tuple(mixers(lm)), torch.device("cpu"), "transformers")
    tokens = Tokens("random", tuple(np.asarray(geometry.tokens(DEFAULT, 512))))
    settings = Calibration(samples=DEFAULT, seqlen=512, batch_size=8, folds=8)
    begin = time.perf_counter()
    statistics, _ = calibrate(model, tokens, settings, lambda *_: None)
    full = time.perf_counter() - begin
    kept, key = CalibrationStore(Path(f"store-{dtype}")), Key("130m", {"geometry": "130m", "dtype": dtype})
    begin = time.perf_counter()
    entry = kept.write(key, statistics)
    written = time.perf_counter() - begin
    store._last = None
    begin = time.perf_counter()
    kept.read(key)
    read = time.perf_counter() - begin
    checkpoint = Checkpoint(Path(f"work-{dtype}"), 0)
    observing = {(m.layer, site): _state(site, m.widths) for m in model.mixers for site in m.sites}
    begin = time.perf_counter()
    checkpoint.save(0, 1, observing)
    saved = time.perf_counter() - begin
    megabytes = sum(file.stat().st_size for file in entry.iterdir()) / 1e6
    return [
        {
            "what": f"130m, {dtype}: store, write + read, % of a calibration",
            "value": 100 * (written + read) / full,
            "at most": 2.0,
        },
        {"what": f"130m, {dtype}: checkpoint every minute, % of the time", "value": 100 * saved / 60, "at most": 2.0},
        {"what": f"130m, {dtype}: a stored calibration of {DEFAULT} samples, MB", "value": megabytes, "at most": 64},
    ]


def _state(site: str, widths: dict[str, int]) -> dict[str, Any]:
    """As much as an observer holds of a site, a third of its bins occupied."""
    counts = torch.randint(1, 10**6, (65_536,)) * (torch.rand(65_536) < 1 / 3)
    return {"counts": counts, **{n: torch.rand(widths[site]) for n in ("low", "high", "abs_sum", "text_mean")}}


def main() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        rows = [*grid(), *plan(), *storing("float32"), *storing("bfloat16")]
        os.chdir("/")
    return table("A grid with the shipped model (W&B disabled, one process), and the store at the 130m geometry", rows)


if __name__ == "__main__":
    main()
