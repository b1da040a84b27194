"""The best setting of every layer by SQNR, and what one choice for all layers loses against it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sweep.compare.analysis.advice import Advice
from sweep.compare.analysis.per_site import points, shared_places
from sweep.compare.analysis.place_errors import difference_error, layer_replicates
from sweep.compare.analysis.significance import jackknife
from sweep.compare.query.comparison import Comparison


@dataclass(frozen=True)
class LayerChoice:
    """setting: the best of a layer. sqnr_db: its mean over the layer's quantized sites. loss_db: what the best global
    setting loses here. Each with its standard error over folds, None where no replicates tell it."""

    layer: int
    setting: str
    sqnr_db: float
    sqnr_se: float | None
    loss_db: float
    loss_se: float | None


@dataclass(frozen=True)
class Choices:
    """layers: those that every setting knows. layer_loss_db: mean loss of one global choice against the best choice for
    every layer; site_loss_db: against the best one for every layer and site. NaN where there are no layers."""

    layers: tuple[LayerChoice, ...]
    layer_loss_db: float
    site_loss_db: float


def choices(runs: Comparison, advice: Advice) -> Choices:
    """The choices among the ranked settings whose SQNR is known; the global one is the recommended setting, or that of
    the highest mean where the recommended one's SQNR is not known."""
    names = {r.cell: r.setting for r in advice.runners if np.isfinite(r.sqnr_db)}
    cells, codes, sqnr = shared_places(points(runs, names), sorted(names), runs.sites)
    if not sqnr.size:
        return Choices((), float("nan"), float("nan"))
    layers, start, weight = np.unique(codes // len(runs.sites), return_index=True, return_counts=True)
    table = np.add.reduceat(sqnr, start, axis=1) / weight
    best = cells.index(advice.best.cell) if advice.best.cell in cells else int(sqnr.mean(1).argmax())
    top, here = table.argmax(0), np.arange(len(layers))
    loss = table[top, here] - table[best]
    known = layer_replicates(runs, {cells[best], *(cells[n] for n in top)}, codes)
    chosen = []
    for k in here:
        layer, cell = int(layers[k]), cells[top[k]]
        mine, others = known.get((cell, layer)), known.get((cells[best], layer))
        error = None if mine is None else float(jackknife(mine))
        same = runs.listed[cell].key == runs.listed[cells[best]].key
        of_loss = difference_error(others, mine, same)
        chosen.append(LayerChoice(layer, names[cell], float(table[top[k], k]), error, float(loss[k]), of_loss))
    return Choices(tuple(chosen), float(np.average(loss, weights=weight)), float((sqnr.max(0) - sqnr[best]).mean()))
