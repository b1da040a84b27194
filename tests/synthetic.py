"""Run directories written from known values: what a cell writes, computed by brute force from the values.

`World` holds the values of every (layer, site) in K folds; `write` reads scales, errors and metrics off them
with NumPy alone, so the truth of every number is known here and nowhere else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Values = list[NDArray[np.float64]]  # one array per fold
GROUP_COLUMNS = ("ssd_group", "head_group", "dim_group")
LARGEST = {"int8": 127.0, "int4": 7.0}


@dataclass
class World:
    """values[layer, site]: a list of K arrays, or {group: list} for a site with groups (1, head, dim)."""

    values: dict[tuple[int, str], Values]
    model: str = "tiny"
    weights: str = "trained"
    tokens: str = "a" * 64
    data: str = "stdlib"
    dtype: str = "float32"

    @property
    def folds(self) -> int:
        return len(next(iter(self.values.values())))

    @property
    def key(self) -> str:
        return f"{abs(hash((self.model, self.weights, self.tokens, self.dtype))):016x}"


def mamba(layers: int = 6, folds: int = 8, size: int = 1500, seed: int = 0, parts: str = "xBC", **more: Any) -> World:
    """Heavy-tailed activations that get louder with depth; post-SiLU really is silu(pre-SiLU)."""
    rng = np.random.default_rng(seed)
    values: dict[tuple[int, str], Values] = {}
    for layer in range(layers):
        gain = 0.6 + 0.25 * layer
        values[layer, "in_proj_in"] = [gain * rng.standard_t(6, size) for _ in range(folds)]
        for i, part in enumerate(parts):
            values[layer, f"{part}_conv_in"] = [gain * rng.standard_t(3 + i, size) for _ in range(folds)]
            pre = [gain * rng.standard_t(3 + i, size) - 0.4 for _ in range(folds)]
            values[layer, f"{part}_conv_pre"] = pre
            values[layer, f"{part}_conv_out"] = [p / (1 + np.exp(-p)) for p in pre]
        values[layer, "out_proj_in"] = [gain * rng.standard_t(4, size) ** 3 for _ in range(folds)]
    return World(values, **more)


def clip(x: NDArray[np.float64], method: str, alpha: float | None) -> float:
    """The clip of a method by brute force; a quantile as np.quantile has it, bit for bit, in a fifth of its time."""
    magnitude = np.abs(x)
    if method == "minmax":
        return float(magnitude.max())
    assert alpha is not None
    below, part = divmod(alpha * (magnitude.size - 1), 1)
    ends = np.partition(magnitude, [int(below), min(int(below) + 1, magnitude.size - 1)])
    low, high = ends[int(below)], ends[min(int(below) + 1, magnitude.size - 1)]
    return float(low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part))


def sqnr(x: NDArray[np.float64], scale: float, largest: float) -> tuple[float, float, float]:
    """(mse, SQNR in dB, share of clipped values) of symmetric rounding to codes -largest … largest."""
    codes = np.clip(np.round(x / scale), -largest, largest)
    mse = float(np.mean((x - codes * scale) ** 2))
    return mse, float(10 * np.log10(np.mean(x**2) / mse)), float(np.mean(np.abs(x) > largest * scale))


def jackknife(replicates: NDArray[np.float64]) -> float:
    return float(np.sqrt((len(replicates) - 1) * replicates.var()))


def replicates_of(whole: float, folds: list[float], method: str) -> NDArray[np.float64]:
    """What the product makes of the folds' own answers: all that they scatter for a maximum, else its K-th part."""
    logs = np.log(folds)
    without = (logs.sum() - logs) / (len(logs) - 1)
    return np.asarray(whole * np.exp((without - logs.mean()) * (np.sqrt(len(logs)) if method == "minmax" else 1.0)))


def write(
    path: Path,
    world: World,
    *,
    method: str = "percentile",
    alpha: float | None = 0.9995,
    format: str = "int8",
    grid: tuple[int, int] | None = None,
    factor: float = 1.0,
    evaluation: dict[str, Any] | None = None,
    name: str | None = None,
    status: str = "finished",
    error: str | None = None,
) -> Path:
    """Write one cell. grid: (head groups, dim groups) that x_conv_out is split into; factor: scales times this."""
    path.mkdir(parents=True)
    effective = alpha if method == "percentile" else None
    granularity = "tensor" if grid is None else f"group{grid[0]}x{grid[1]}"
    largest, folds = LARGEST[format], world.folds
    rows, replicates, convergence, histograms = [], [], [], []
    for (layer, site), whole in world.values.items():
        for group, parts in _groups(whole, grid if site == "x_conv_out" else None).items():
            where = {"layer": layer, "site": site, **dict(zip(GROUP_COLUMNS, group, strict=True))}
            everything = np.concatenate(parts)
            left = [np.concatenate([p for j, p in enumerate(parts) if j != k]) for k in range(folds)]
            scale = factor * clip(everything, method, effective) / largest
            clips = [clip(part, method, effective) for part in parts]
            scales = replicates_of(scale, [factor * c / largest for c in clips], method)
            mse, db, clipped = sqnr(everything, scale, largest)
            weight = 0.5 / 127 if site.endswith("conv_out") else None
            gain = None
            if site.endswith("conv_out") and grid is None:
                pre = np.concatenate(world.values[layer, site.replace("out", "pre")])
                gain = scale / (clip(pre, method, effective) / largest) / factor
            rows.append({
                "model": world.model, "method": method, "alpha": effective, "format": format,
                "granularity": granularity, **where, "n": everything.size, "min": everything.min(),
                "max": everything.max(), "absmax": np.abs(everything).max(), "clip": scale * largest,
                "scale": scale, "scale_se": jackknife(scales), "clip_low": None, "zero_point": None,
                "clip_fraction": clipped, "mse": mse, "sqnr_db": db, "code_entropy_bits": 5.0,
                "weight_scale": weight, "ratio": weight and scale / weight, "silu_gain": gain,
            })  # fmt: skip
            for k in range(folds):
                replicates.append({
                    **where, "fold": k, "scale": scales[k], "sqnr_db": sqnr(left[k], scales[k], largest)[1],
                    "silu_gain": gain and gain * scales[k] / scale, "ratio": weight and scales[k] / weight,
                })  # fmt: skip
            if grid is not None:
                continue
            for k in range(1, folds + 1):
                seen = np.concatenate(parts[:k])
                each = [c / largest for c in clips[:k]]
                convergence.append({
                    "layer": layer, "site": site, "folds": k, "samples": 64 * k, "n": seen.size,
                    "scale": factor * clip(seen, method, effective) / largest,
                    "scale_se": jackknife(replicates_of(scale, each, method)) if k > 1 else None,
                })  # fmt: skip
        if site in ("x_conv_pre", "x_conv_out"):
            x = np.concatenate(whole)
            top = float(np.abs(x).max()) * 1.001
            half = np.geomspace(top * 2.0**-20, top, 256)
            edges = np.concatenate([-half[::-1], [0.0], half])
            counts = np.histogram(x, edges)[0]
            histograms.append({"layer": layer, "site": site, "edges": edges.tolist(), "counts": counts.tolist()})
    pq.write_table(pa.Table.from_pylist(rows, SCALES), path / "scales.parquet")
    pq.write_table(pa.Table.from_pylist(replicates, REPLICATES), path / "replicates.parquet")
    if convergence:
        pq.write_table(pa.Table.from_pylist(convergence, CONVERGENCE), path / "convergence.parquet")
        pq.write_table(pa.Table.from_pylist(histograms, HISTOGRAMS), path / "histograms.parquet")
    run = run_json(path, world, method, alpha, format, granularity, evaluation, name, status, error)
    (path / "run.json").write_text(json.dumps(run))
    return path


def run_json(
    path: Path, world: World, method: str, alpha: float | None, format: str, granularity: str,
    evaluation: dict[str, Any] | None, name: str | None, status: str, error: str | None,
) -> dict[str, Any]:  # fmt: skip
    layers = 1 + max(layer for layer, _ in world.values)
    return {
        "schema": 1, "status": status, "error": error,
        "name": name or f"{world.model} {method} a={alpha} {format} {granularity}", "sweep": path.parent.name,
        "started": "2026-11-23T11:00:00+00:00", "finished": "2026-11-23T11:01:00+00:00",
        "config": {
            "model": {"name": world.model}, "data": {"name": world.data},
            "calibration": {"samples": 64 * world.folds, "seqlen": 128, "batch_size": 8, "folds": world.folds,
                "seed": 0},
            "method": method, "alpha": alpha, "format": format, "granularity": granularity,
            "device": "cpu", "dtype": world.dtype,
        },
        "calibration": {"key": world.key, "preimage": {}, "path": "", "cached": False},
        "model": {
            "name": world.model, "identity": f"{world.model}-{world.weights}", "weights": world.weights,
            "family": "mamba2", "n_layer": layers, "d_model": 64, "d_inner": 128, "n_groups": 1, "n_heads": 8,
            "headdim": 16, "d_state": 32,
        },
        "tokens": {"sha256": world.tokens, "data": world.data, "samples": 64 * world.folds, "seqlen": 128, "count": 0},
        "versions": {}, "git": None, "device": {"type": "cpu", "name": "test", "threads": 1},
        "timings": {}, "counts": {}, "evaluation": evaluation, "wandb": None,
    }  # fmt: skip


def _groups(parts: Values, grid: tuple[int, int] | None) -> dict[tuple[int | None, ...], Values]:
    """Deal every fold's values, sorted by magnitude, to head x dim groups: loud and quiet ones apart."""
    if grid is None:
        return {(None, None, None): parts}
    heads, dims = grid
    pieces = [np.array_split(p[np.argsort(np.abs(p))], heads * dims) for p in parts]
    return {(0, i // dims, i % dims): [p[i] for p in pieces] for i in range(heads * dims)}


def _floats(names: str) -> list[tuple[str, pa.DataType]]:
    return [(name, pa.float64()) for name in names.split()]


_WHERE = [("layer", pa.int32()), ("site", pa.string()), *((g, pa.int32()) for g in GROUP_COLUMNS)]
SCALES = pa.schema([
    ("model", pa.string()), ("method", pa.string()), ("alpha", pa.float64()), ("format", pa.string()),
    ("granularity", pa.string()), *_WHERE, ("n", pa.int64()),
    *_floats("min max absmax clip scale scale_se clip_low"), ("zero_point", pa.int32()),
    *_floats("clip_fraction mse sqnr_db code_entropy_bits weight_scale ratio silu_gain"),
])  # fmt: skip
REPLICATES = pa.schema([*_WHERE, ("fold", pa.int32()), *_floats("scale sqnr_db silu_gain ratio")])
CONVERGENCE = pa.schema([
    ("layer", pa.int32()), ("site", pa.string()), ("folds", pa.int32()), ("samples", pa.int32()),
    ("n", pa.int64()), ("scale", pa.float64()), ("scale_se", pa.float64()),
])  # fmt: skip
HISTOGRAMS = pa.schema([
    ("layer", pa.int32()), ("site", pa.string()), ("edges", pa.list_(pa.float64())), ("counts", pa.list_(pa.int64()))
])  # fmt: skip
