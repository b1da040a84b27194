"""Run directories as a cell leaves them, small, with every kind of number that a table may hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sweep.config.config import Config
from sweep.config.knobs import Data, Model
from sweep.core.files import write_json
from sweep.runs import schemas

SITES = ("x_conv_in", "x_conv_pre", "x_conv_out", "out_proj_in")
CONFIG = Config(Model("tiny", "pkg://sweep/models/tiny"), Data("stdlib"))


def finished(directory: Path, layers: int = 4, groups: int = 1, seed: int = 0, **record: Any) -> Path:
    """A finished cell. In layer 1 nothing is lost at x_conv_in (SQNR +inf) and silu_gain is NaN at x_conv_out."""
    rng = np.random.default_rng(seed)
    rows, histograms = [], []
    for layer in range(layers):
        for site in SITES:
            rows += [_row(rng, layer, site, group if groups > 1 else None) for group in range(groups)]
        edges = np.concatenate([-np.logspace(14, -18, 256, base=2), [0], np.logspace(-18, 14, 256, base=2)])
        counts = np.zeros(512, np.int64)
        counts[200:360] = rng.integers(1, 2**40, 160)
        histograms.append({"layer": layer, "site": "x_conv_out", "edges": edges, "counts": counts})
    directory.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schemas.SCALES), directory / "scales.parquet")
    pq.write_table(pa.Table.from_pylist(histograms, schemas.HISTOGRAMS), directory / "histograms.parquet")
    write_json(directory / "run.json", RECORD | {"sweep": directory.parent.name, "seed": seed} | record)
    return directory


def rows(directory: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(directory / "scales.parquet").to_pylist())


def record(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / "run.json").read_text()))


def _row(rng: np.random.Generator, layer: int, site: str, group: int | None) -> dict[str, Any]:
    scale = float(rng.uniform(0.01, 0.1))
    row = {
        "model": "tiny",
        "method": "percentile",
        "alpha": 0.9995,
        "format": "int8",
        "granularity": "tensor" if group is None else "group",
        "layer": layer,
        "site": site,
        "head_group": group,
        "n": 2**40 + layer,
        "min": -1.0,
        "max": 127 * scale,
        "absmax": 127 * scale,
        "clip": 127 * scale,
        "scale": scale,
        "scale_se": scale / 100,
        "clip_fraction": float(rng.uniform(0, 0.001)),
        "mse": float(rng.uniform()),
        "sqnr_db": np.inf if (layer, site) == (1, "x_conv_in") else float(rng.uniform(10, 40)),
        "code_entropy_bits": float(rng.uniform(2, 7)),
    }
    if site == "x_conv_out":
        row |= {"weight_scale": 0.004, "ratio": scale / 0.004, "silu_gain": np.nan if layer == 1 else 0.9}
    return row


RECORD: dict[str, Any] = {
    "schema": 1,
    "status": "finished",
    "error": None,
    "name": CONFIG.label,
    "sweep": "grid",
    "started": "2026-01-01T00:00:00+00:00",
    "finished": "2026-01-01T00:01:00+00:00",
    "config": CONFIG.to_dict(),
    "calibration": {"key": "ab" * 32, "preimage": {}, "path": "runs/calibrations/x", "cached": False},
    "model": {"name": "tiny", "identity": "sha256:00", "weights": "trained", "n_layer": 4},
    "tokens": {"sha256": "cd" * 32, "data": "stdlib", "samples": 8, "seqlen": 64, "count": 512},
    "versions": {"sweep": "0.1.0"},
    "git": None,
    "device": {"type": "cpu", "name": "x86_64", "threads": 1},
    "timings": {"load_s": 1.0, "forward_s": 2.0, "observe_s": 0.25, "readout_s": 0.5},
    "counts": {"values": 1000, "tokens": 512},
    "evaluation": None,
    "wandb": None,
}
