"""Predicted loss of a cell: sums over its rows, with the errors of the sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sweep.quantization import predicted_loss
from sweep.quantization.formats import named
from sweep.quantization.methods.registry import METHODS, jackknife_error
from sweep.quantization.site_scales import clips_of
from sweep.quantization.statistics import Statistics
from sweep.runs.tables import Tables

STANDARD = (("minmax", None), ("percentile", 0.9995), ("percentile", 0.99999), ("mse", None), ("loss", None))


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


def standard(statistics: Statistics, format: str, sites: Sequence[str]) -> list[dict[str, Any]]:
    """Predicted costs of the usual settings in a format, from the same pass, cheapest first: `method`, `alpha`, `loss`
    and `loss_se`, nats per token, of all these sites rounded, one scale a site. The error is that of the loss of these
    very clips on other text. Empty where a site has no gradients."""
    to, rounded = named(format), [site for (_, name), site in statistics.sites.items() if name in sites]
    if not rounded or any(site.fisher is None for site in rounded):
        return []
    costs = []
    for name, alpha in STANDARD:
        parts = []
        for site in rounded:
            whole = site.subsets(np.ones((1, len(site.folds)), bool))
            clip = clips_of(site, whole, METHODS[name], alpha, to)
            parts.append(predicted_loss.predict(site, [to.place(float(clip.low[0]), float(clip.high[0]))])[0])
        total = np.sum(parts, 0)
        error = float(jackknife_error(total[1:]))
        costs.append({"method": name, "alpha": alpha, "loss": _finite(total[0]), "loss_se": _finite(error)})
    return sorted(costs, key=lambda cost: np.inf if cost["loss"] is None else cost["loss"])


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
