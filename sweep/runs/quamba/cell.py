"""Saved scales as a cell: the same scales.parquet and run.json as a calibrated one writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sweep.quantization.site_scales import NOWHERE, WHOLE
from sweep.runs import record as runs
from sweep.runs import rows, schemas
from sweep.runs.place import take
from sweep.runs.quamba.checkpoint import Saved, Values
from sweep.runs.record import RunRecord
from sweep.runs.results import CalibrationRecord, ModelRecord, Results, TokensRecord

LARGEST = 127.0
UNKNOWN = "not recorded in the checkpoint"
METHOD = "quamba"  # minmax for all but x without groups, which is percentile_ema; the file does not say which alpha


def write(saved: Saved, directory: Path, overwrite: bool = False) -> RunRecord:
    """Writes the cell; returns its record. Raises UsageError where another one would be lost by it."""
    take(directory, lambda: _holds(directory, saved), overwrite, "choose another --runs, or say --overwrite")
    record = runs.start(directory, _record(saved))
    schemas.write_table(directory / "scales.parquet", rows.assemble(_rows(saved), schemas.SCALES))
    for name, schema in (
        ("replicates", schemas.REPLICATES),
        ("convergence", schemas.CONVERGENCE),
        ("histograms", schemas.HISTOGRAMS),
    ):
        schemas.write_table(directory / f"{name}.parquet", schema.empty_table())
    if saved.grouped:
        schemas.write_table(directory / "grouping.parquet", rows.assemble(_groupings(saved), schemas.GROUPING))
    return runs.finish(directory, record, _results(saved))


def _holds(directory: Path, saved: Saved) -> bool:
    record = runs.read(directory)
    return bool(record and record.results and record.results.calibration.key == saved.digest)


def _rows(saved: Saved) -> list[dict[str, Any]]:
    granularity = "group" if saved.grouped else "tensor"
    cell = {"model": saved.name, "method": METHOD, "format": "int8", "granularity": granularity}
    rows = []
    for layer, values in saved.layers.items():
        for site, scale, places, weight in _sites(values):
            known = {"clip": scale * LARGEST, "scale": scale}
            if weight is not None:
                known |= {"weight_scale": np.full_like(scale, weight), "ratio": scale / weight}
            groups = {name: places[:, i] for i, name in enumerate(("ssd_group", "head_group", "dim_group"))}
            rows.append({**cell, "layer": layer, "site": site, **groups, **known})
    return rows


def _sites(values: Values) -> list[tuple[str, Any, Any, float | None]]:
    """(site, scales [P], places [P, 3], weight scale)"""
    sites: list[tuple[str, Any, Any, float | None]] = []
    whole = np.array([WHOLE])
    if "output_scale" in values:
        weight = values.get("weight_scale")
        return [
            ("x_conv_in", values["input_scale"].reshape(1), whole, None),
            ("x_conv_out", values["output_scale"].reshape(1), whole, None if weight is None else float(weight)),
        ]
    for part in "xBC":
        out = values[f"{part}_out_scales"]
        weight = values.get(f"w{part}_scale")
        places = whole
        if out.ndim == 3:
            places = np.stack(np.unravel_index(np.arange(out.size), out.shape), 1)
        elif part != "x" and (out.size > 1 or values["x_out_scales"].ndim == 3):
            places = np.array([(g, NOWHERE, NOWHERE) for g in range(out.size)])
        sites.append((f"{part}_conv_in", values[f"{part}_scale"].reshape(1), whole, None))
        sites.append((f"{part}_conv_out", out.reshape(-1), places, None if weight is None else float(weight)))
    return sites


def _groupings(saved: Saved) -> list[dict[str, Any]]:
    """The ranges of each layer; the permutation is not in the file, its weights are already in the new order."""
    return [
        {
            "layer": np.array([layer]),
            **dict(zip(("ssd_groups", "head_groups", "dim_groups"), values["x_out_scales"].shape, strict=True)),
            "channels": [None],
            "heads": [None],
            "head_ends": [values["x_head_group_range"].ravel().tolist()],
            "dim_ends": [values["x_dim_group_range"].ravel().tolist()],
        }
        for layer, values in saved.layers.items()
        if values["x_out_scales"].ndim == 3
    ]


def _record(saved: Saved) -> RunRecord:
    grouping = {}
    if saved.grouped:
        _, heads, dims = next(iter(saved.layers.values()))["x_out_scales"].shape
        grouping = {"grouping": {"head_groups": heads, "dim_groups": dims, "variant": "published"}}
    config = {
        "model": {"name": saved.name, "path": str(saved.path)},
        "data": {"name": UNKNOWN},
        "calibration": {"samples": None, "seqlen": None, "batch_size": 1, "folds": 0, "seed": None},
        "method": METHOD,
        "alpha": None,
        "format": "int8",
        "granularity": "group" if saved.grouped else "tensor",
        **grouping,
        "dtype": "float16",
    }
    return runs.under_way(f"{saved.name} as saved by Quamba", "quamba", config)


def _results(saved: Saved) -> Results:
    ssd = {}
    first = next(iter(saved.layers.values()))
    if saved.family == "mamba2" and (saved.grouped or first["B_out_scales"].size > 1):
        ssd = {"n_groups": int(first["B_out_scales"].size)}
    return Results(
        CalibrationRecord(saved.digest, {"checkpoint": saved.digest}, str(saved.path), cached=True),
        ModelRecord(saved.name, saved.digest, facts={"family": saved.family, "n_layer": max(saved.layers) + 1, **ssd}),
        TokensRecord(UNKNOWN, UNKNOWN, samples=None, seqlen=None),
        device=None,
        timings={},
        counts={},
    )
