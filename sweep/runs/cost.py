"""Predicted loss of a cell: sums over its rows, with the errors of the sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sweep.quantization.formats import named
from sweep.quantization.methods.registry import jackknife_error
from sweep.runs.tables import Tables


def predicted(tables: Tables, sites: Sequence[str]) -> dict[str, Any] | None:
    """`loss` and `loss_se`, nats per token, of all these sites rounded, of each of them (`sites`) and in each layer
    (`layers`); `bits`, what a value of them takes on average. Folds are left out of the whole sum, since errors of the
    sites go together. A sum is None where one of its rows is unknown; None alone where all are."""
    scales, replicates = (t.filter(pc.is_in(t["site"], pa.array(sites))) for t in (tables.scales, tables.replicates))
    if scales["loss"].null_count == len(scales):
        return None
    loss, site, layer = (scales[name].to_numpy() for name in ("loss", "site", "layer"))
    folds, fold = np.unique(replicates["fold"].to_numpy(), return_inverse=True)
    left, left_site, left_layer = (replicates[name].to_numpy() for name in ("loss", "site", "layer"))

    def total(rows: NDArray[np.bool_], left_rows: NDArray[np.bool_]) -> dict[str, float | None]:
        without = np.zeros(len(folds))
        np.add.at(without, fold[left_rows], left[left_rows])
        return {"loss": _finite(loss[rows].sum()), "loss_se": _finite(jackknife_error(without))}

    bits = [named(name).bits for name in scales["format"].to_pylist()]
    return {
        "bits": float(np.average(bits, weights=scales["n"].to_numpy())),
        **total(np.full(len(loss), True), np.full(len(left), True)),
        "sites": {name: total(site == name, left_site == name) for name in sites if name in site},
        "layers": [{"layer": int(n), **total(layer == n, left_layer == n)} for n in np.unique(layer)],
    }


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
