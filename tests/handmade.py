"""Cells whose every number is given: SQNR, scale and predicted loss of each place, and the same without each fold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from synthetic import REPLICATES, SCALES, World, run_json

Place = tuple[int, str]  # layer, site
FOLDS = 8
LOSS = [("loss", pa.float64())]


def cell(
    path: Path,
    db: Mapping[Place, float | None],
    wobble: Sequence[float] = (0.0,) * FOLDS,
    *,
    scale: Mapping[Place, float] | None = None,
    loss: Mapping[Place, float | None] | None = None,
    recorded: dict[str, Any] | None = None,
    replicates: bool = True,
    clipped: float = 0.0,
    method: str = "percentile",
    alpha: float = 0.9995,
    format: str = "int8",
    evaluation: dict[str, Any] | None = None,
    tokens: str = "a" * 64,
    model: str = "tiny",
) -> Path:
    """Writes a finished cell with one scale per site. wobble: what the SQNR has more without each fold, dB; scales and
    losses are 1 + wobble times as large then. loss: nats per token; recorded: what run.json says of it in all."""
    path.mkdir(parents=True)
    effective = alpha if method == "percentile" else None
    about = {"model": model, "method": method, "alpha": effective, "format": format, "granularity": "tensor"}
    rows, left = [], []
    for (layer, site), value in db.items():
        where = {"layer": layer, "site": site}
        s, nats = (scale or {}).get((layer, site), 1.0), (loss or {}).get((layer, site))
        numbers = {"n": 100 * (1 + layer), "scale": s, "sqnr_db": value, "mse": 0.1, "clip_fraction": clipped + layer}
        rows.append({**about, **where, **numbers, "loss": nats})
        for k, w in enumerate(wobble):
            without = None if nats is None else nats * (1 + w)
            sqnr = None if value is None else value + w
            left.append({**where, "fold": k, "scale": s * (1 + w), "sqnr_db": sqnr, "loss": without})
    more = LOSS if loss is not None else []
    pq.write_table(pa.Table.from_pylist(rows, pa.schema([*SCALES, *more])), path / "scales.parquet")
    if replicates:
        pq.write_table(pa.Table.from_pylist(left, pa.schema([*REPLICATES, *more])), path / "replicates.parquet")
    world = World({place: [np.zeros(1)] * len(wobble) for place in db}, model=model, tokens=tokens)
    run = run_json(path, world, method, alpha, format, "tensor", evaluation, None, "finished", None)
    if recorded is not None:
        run["loss"] = recorded
    (path / "run.json").write_text(json.dumps(run))
    return path
