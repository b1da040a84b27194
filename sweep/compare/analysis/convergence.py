"""Does more data help? Read off the folds: the scale as samples were added, and its error at the end."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sweep.compare.analysis.forecast import Forecast, forecast
from sweep.compare.analysis.rules import NEGLIGIBLE_DB
from sweep.compare.analysis.significance import freedom, quantile
from sweep.compare.query.comparison import Comparison
from sweep.compare.query.database import CONVERGENCE, deployed

# A step between codes that is off by a factor 1 + e changes rounding noise by 20 log10(1 + e) dB.
ENOUGH = 10 ** (NEGLIGIBLE_DB / 20) - 1


@dataclass(frozen=True)
class Convergence:
    """Errors and drift of the scales of one cell. samples: number of distinct ones.

    error: 95 % half-width of a scale relative to it, median over layers and sites, and the worst one with
    its place. drift: relative change from half of the samples to all, where it is largest.
    open_rows: (layer, site) rows, of `rows`, whose half-width exceeds what costs 0.1 dB of rounding noise.
    """

    cell: int
    samples: int
    folds: int
    rows: int
    open_rows: int
    error: float
    worst_error: float
    worst_layer: int
    worst_site: str
    drift: float
    drift_layer: int
    drift_site: str
    forecast: Forecast | None = None

    @property
    def enough(self) -> bool:
        return self.open_rows == 0

    @property
    def needed(self) -> int:
        """Samples after which the worst row would be settled if its error keeps falling as 1/sqrt(samples)."""
        return math.ceil(self.samples * (self.worst_error / ENOUGH) ** 2)


def convergence(runs: Comparison, cells: list[int]) -> list[Convergence]:
    """One entry per cell of `cells` that has a convergence.parquet with errors; of quantized sites."""
    source = runs.source(CONVERGENCE, cells)
    if source is None:
        return []
    query = f"""
        WITH c AS (FROM {source} WHERE {deployed()}),
        last AS (SELECT cell, max(folds) AS k, max(samples) AS n FROM c GROUP BY cell)
        SELECT c.cell AS cell, last.n AS n, k, c.layer AS layer, c.site AS site, c.scale_se / c.scale AS error,
               c.scale / half.scale - 1 AS drift
        FROM c JOIN last ON c.cell = last.cell AND c.folds = k
        JOIN c AS half ON half.cell = c.cell AND half.layer = c.layer AND half.site = c.site
             AND half.folds = greatest(k // 2, 1)
        WHERE c.scale > 0 AND half.scale > 0 AND isfinite(c.scale_se) ORDER BY cell, layer, site"""
    rows = runs.arrays(query)
    entries = []
    for cell in np.unique(rows["cell"]):
        mine = {name: column[rows["cell"] == cell] for name, column in rows.items()}
        folds = int(mine["k"][0])
        if folds < 2:
            continue
        error = mine["error"] * quantile(0.95, freedom(folds))
        worst, far = int(error.argmax()), int(np.abs(mine["drift"]).argmax())
        entries.append(
            Convergence(
                int(cell),
                int(mine["n"][0]) if (distinct := runs.listed[int(cell)].distinct) is None else distinct,
                folds,
                len(error),
                int((error > ENOUGH).sum()),
                float(np.median(error)),
                float(error[worst]),
                int(mine["layer"][worst]),
                str(mine["site"][worst]),
                float(mine["drift"][far]),
                int(mine["layer"][far]),
                str(mine["site"][far]),
                forecast(error, ENOUGH, folds, runs.listed[int(cell)].method, runs.listed[int(cell)].path),
            )
        )
    return entries
