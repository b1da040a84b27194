"""Single differences to a baseline: of SQNR and scale at a place, of cost over the whole network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweep.compare.analysis.contrasts import Contrast
from sweep.compare.analysis.cost import Costs, Estimate
from sweep.compare.analysis.differences import Differences, Evidence
from sweep.compare.analysis.rules import NEGLIGIBLE_DB
from sweep.compare.analysis.significance import FAMILY, Floats, holm, p_values, quantile
from sweep.quantization.sites import quantized


@dataclass(frozen=True, eq=False)
class Effect:
    """One difference to the baseline. layer is None for the mean of a site; se is one standard error, NaN if
    unknown; p is corrected for all tests of its family in the report."""

    value: str
    layer: int | None
    site: str
    db: float
    db_se: float
    scale: float  # relative change of the scale
    scale_se: float
    p: float


@dataclass(frozen=True)
class Nats:
    """The cost of one value above the baseline's, nats per token; p is corrected for all such tests of the report."""

    value: str
    more: Estimate
    p: float

    @property
    def reach(self) -> float:
        """Upper end of its size at 95 % confidence; NaN if unknown."""
        return abs(self.more.value) + quantile(0.95, self.more.df) * self.more.se


def cost_differences(
    costs: Costs, questions: Sequence[Contrast], chosen: Sequence[Sequence[tuple[int, int]]]
) -> tuple[list[str], list[tuple[Nats, ...]]]:
    """(the measure that ranks its cells, see `Costs.ranked`, cost differences to the baseline if that is a cost, of the
    cells that it is known of), of every question."""
    ranked = [costs.ranked(q.cells, q.cells[q.baseline]) for q in questions]
    kinds, members = [kind for kind, _ in ranked], [set(cells) for _, cells in ranked]
    known = [
        costs.differences(kind, [pair for pair in pairs if pair[1] in cells])
        for kind, cells, pairs in zip(kinds, members, chosen, strict=True)
    ]
    raw = [
        float(p_values(np.array([e.value]), np.array([e.se]), e.df)[0]) if e.value else np.nan
        for here in known
        for e in here.values()
    ]
    corrected = iter(holm(np.array(raw)).tolist())
    nats = [
        tuple(Nats(q.value(pair[1]), e, next(corrected)) for pair, e in here.items())
        for q, here in zip(questions, known, strict=True)
    ]
    return kinds, nats


def largest(question: Contrast, parts: Sequence[tuple[Evidence, Differences, Floats]]) -> tuple[Effect | None, int]:
    """The largest SQNR difference at a quantized site, among those that count if any does, and how many (layer, site)
    of these count."""
    best = (False, -1.0)
    effect: Effect | None = None
    places: set[tuple[int, str]] = set()
    for e, d, p in parts:
        known = np.isfinite(d.sqnr) & np.isin(d.site.astype(str), ["all", *quantized()])
        size = np.where(known, np.abs(d.sqnr), -1.0)
        with np.errstate(invalid="ignore"):
            counts = (p <= FAMILY) & (size >= NEGLIGIBLE_DB)
        places.update(zip(d.layer[counts].tolist(), d.site[counts].tolist(), strict=True))
        if not len(size) or size.max() < 0:
            continue
        k = int(np.where(counts, size, -2.0).argmax()) if counts.any() else int(size.argmax())
        if (key := (bool(counts[k]), float(size[k]))) <= best:
            continue
        best = key
        layer = None if d.layer[k] < 0 else int(d.layer[k])
        scale, scale_se = float(np.expm1(d.scale[k])), float(d.scale_se[k] * np.exp(d.scale[k]))
        effect = Effect(
            question.value(e.other),
            layer,
            str(d.site[k]),
            float(d.sqnr[k]),
            float(d.sqnr_se[k]),
            scale,
            scale_se,
            float(p[k]),
        )
    return effect, len(places)
