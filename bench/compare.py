"""How long `sweep.compare` takes for 10,000 cells of 64 layers x 9 sites (5.76 million rows), every cell with its own
scales.parquet, and how heavy and slow the report of 24 of them is. `python -m bench.compare [CELLS [DIRECTORY]]`
keeps the cells in DIRECTORY, to be used again."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.race import table
from sweep.runs.schemas import write_table
from sweep.runs.totals import Totals
from tests.harness import browser

SITES = (
    "in_proj_in", "x_conv_in", "x_conv_pre", "x_conv_out", "B_conv_in", "B_conv_out", "C_conv_in", "C_conv_out",
    "out_proj_in",
)  # fmt: skip
MODELS, FORMATS, LAYERS, FOLDS = 10, 5, 64, 8
REPEATS = 7


def columns_of(rng: np.random.Generator, alpha: float | None, quality: float) -> dict[str, pa.Array]:
    """Columns of scales.parquet that differ between cells: plausible, not measured."""
    n = LAYERS * len(SITES)
    scale = rng.lognormal(-4, 0.3, n) * (1 + (alpha or 1.0))
    sqnr = rng.normal(30 + quality, 2, n)
    floats = {
        "min": -scale * 130, "max": scale * 127, "absmax": scale * 130, "clip": scale * 127, "scale": scale,
        "scale_se": scale * 0.005, "clip_low": np.full(n, np.nan), "clip_fraction": rng.random(n) * 1e-3,
        "mse": scale**2 / 12, "sqnr_db": sqnr, "code_entropy_bits": rng.normal(5, 0.1, n),
        "weight_scale": np.full(n, 0.004), "ratio": scale / 0.004, "silu_gain": rng.uniform(0.3, 1, n),
    }  # fmt: skip
    return {name: pa.array(values, from_pandas=True) for name, values in floats.items()}


def generate(root: Path, cells: int) -> None:
    """Write `cells` directories as the harness would: all files, real sizes, replicates shared by link."""
    rng = np.random.default_rng(0)
    n = LAYERS * len(SITES)
    layer = pa.array(np.repeat(np.arange(LAYERS, dtype=np.int32), len(SITES)))
    site = pa.array(SITES * LAYERS)
    none = pa.nulls(n, pa.int32())
    where = {"layer": layer, "site": site, "ssd_group": none, "head_group": none, "dim_group": none}
    settings = cells // (MODELS * FORMATS)
    alphas: list[float | None] = [None, *(1 - np.geomspace(1e-1, 1e-5, settings - 1)).round(7).tolist()]
    shared = root / "replicates.parquet"
    repeated = {k: v.take(pa.array(np.repeat(np.arange(n), FOLDS))) for k, v in where.items()}
    folds = {"fold": pa.array(np.tile(np.arange(FOLDS, dtype=np.int32), n))}
    noise = {k: pa.array(rng.lognormal(0, 0.01, n * FOLDS)) for k in ("scale", "sqnr_db", "silu_gain", "ratio")}
    root.mkdir(parents=True, exist_ok=True)
    write_table(shared, pa.table({**repeated, **folds, **noise}))
    number = 0
    for a, alpha in enumerate(alphas):
        columns = columns_of(rng, alpha, -abs(a - settings / 2) / 10)
        for m in range(MODELS):
            for f in range(FORMATS):
                cell = root / f"sweep{m}" / str(number)
                cell.mkdir(parents=True)
                method = "minmax" if alpha is None else "percentile"
                words = {"model": f"m{m}", "method": method, "alpha": alpha, "format": f"f{f}", "granularity": "tensor"}
                named = {k: pa.array([v] * n, pa.float64() if k == "alpha" else pa.string()) for k, v in words.items()}
                counted = {"n": pa.array(np.full(n, 10**7)), "zero_point": none}
                scales = pa.table({**named, **where, **counted, **columns})
                write_table(cell / "scales.parquet", scales)
                os.link(shared, cell / "replicates.parquet")
                totals = Totals.of(scales, (cell / "scales.parquet").stat().st_size)
                assert totals  # of one scale a site
                written = record(words, number) | {"totals": totals.to_dict()}
                (cell / "run.json").write_text(json.dumps(written, indent=2))
                number += 1


def record(words: dict[str, object], number: int) -> dict[str, object]:
    """A run.json of the usual size."""
    model = words["model"]
    config = {"model": {"name": model}, "data": {"name": "pile"}, "calibration": {"folds": FOLDS}, **words}
    return {
        "schema": 1, "status": "finished", "error": None, "name": f"cell {number}", "sweep": "bench",
        "started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:01:00+00:00",
        "config": {**config, "device": "cuda", "dtype": "bfloat16", "store": "runs/calibrations"},
        "calibration": {"key": f"key {model}", "preimage": {str(i): "x" * 60 for i in range(20)},
            "path": "", "cached": True},
        "model": {"name": model, "identity": f"id {model}", "weights": "trained", "family": "mamba2",
            "n_layer": LAYERS},
        "tokens": {"sha256": "0" * 64, "data": "pile", "samples": 512, "seqlen": 512, "count": 262144},
        "versions": {str(i): "1.0.0" for i in range(12)}, "git": None, "device": {}, "timings": {}, "counts": {},
        "evaluation": None, "wandb": None,
    }  # fmt: skip


def timed(*arguments: str) -> tuple[float, float]:
    """Seconds and MB of a fresh Python process, medians; the first one warms the disk's cache."""
    laps = []
    for _ in range(1 + REPEATS):
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{arguments} failed")
        laps.append((time.perf_counter() - started, usage.ru_maxrss / 1024))
    seconds, memory = (statistics.median(column) for column in zip(*laps[1:], strict=True))
    return seconds, memory


def opened(page: Path) -> float | None:
    """Seconds until every chart of the report is drawn and answers, in headless Chromium; None where it is missing."""
    if (driver := browser()) is None:
        return None
    laps = []
    for _ in range(1 + REPEATS):
        started = time.perf_counter()
        driver.get(page.as_uri())
        while not driver.execute_script("return document.body.dataset.ready === 'yes'"):
            time.sleep(0.01)
        laps.append(time.perf_counter() - started)
    driver.quit()
    return statistics.median(laps[1:])


def main(cells: int = 10_000, directory: str | None = None) -> list[dict[str, Any]]:
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(directory or scratch) / f"cells{cells}"
        if not root.exists():
            generate(root, cells)
        answer, memory = timed("-m", "sweep.compare", str(root), "--no-html")
        start, _ = timed("-c", "pass")
        loaded, _ = timed("-c", "import sweep.compare")
        page = Path(scratch) / "compare.html"
        few = [str(p.parent) for p in sorted((root / "sweep0").glob("*/run.json"))[:24]]
        report, _ = timed("-m", "sweep.compare", *few, "--html", str(page))
        rows = [
            {"what": f"{cells:,} cells: answer in the terminal, s", "value": answer, "at most": 3.0},
            {"what": f"{cells:,} cells: peak memory, MB", "value": memory, "at most": 2048.0},
            {"what": "import sweep.compare, s", "value": loaded - start, "at most": 0.5},
            {"what": "24 cells: answer and HTML, s", "value": report},
            {"what": "24 cells: HTML, MB", "value": page.stat().st_size / 1e6, "at most": 4.0},
            {"what": "24 cells: HTML until all is drawn in Chromium, s", "value": opened(page), "at most": 2.0},
        ]
    return table(f"Comparing cells of {LAYERS} layers x {len(SITES)} sites", rows)


if __name__ == "__main__":
    main(*(int(a) if a.isdigit() else a for a in sys.argv[1:]))  # type: ignore[arg-type]
