"""A reply to one of the seed's questions, and the cells that it is drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sweep.compare.analysis.advice import Advice
from sweep.compare.analysis.differences import Evidence
from sweep.compare.analysis.significance import freedom, quantile
from sweep.compare.analysis.silu_gain import Silu
from sweep.compare.query.comparison import Comparison
from sweep.compare.query.database import SCALES
from sweep.compare.render.sentences import plus
from sweep.compare.tables.table import Table

HOLDS, REASON, PARTLY, FAILS, OPEN = (
    "holds",
    "holds, for another reason",
    "holds in part",
    "does not hold",
    "not answered",
)
ANSWERED, STILL = "answered here", "still open"  # to what the seed asked and said nothing of
SITE = "x_conv_out"  # the seed's x_out_scale
MODERATE, HIGH = 0.9995, 0.99999  # the seed's pa-0.5 and pa-1.0


@dataclass(frozen=True)
class Reply:
    """A question, the seed's answer, whether it holds for these cells (a word from above), and why.

    evidence: names of the report's tables and charts that show the numbers. tables: those made for this answer."""

    question: str
    said: str
    verdict: str
    text: str
    evidence: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass
class Side:
    """The cells of one path, by number: percentile cells by alpha, and the minmax ones by the alpha asked for."""

    percentiles: dict[float, int] = field(default_factory=dict)
    minmax: dict[float | None, int] = field(default_factory=dict)

    @property
    def maximum(self) -> int | None:
        """The cell that clips at the maximum and best knows its SQNR: minmax of groups has none, alpha 1 has."""
        return self.percentiles.get(1.0, next(iter(self.minmax.values()), None))

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(baseline, other) that the answers need: both of the seed's alphas, and the maximum against the first."""
        pairs = []
        if MODERATE in self.percentiles:
            base = self.percentiles[MODERATE]
            pairs += [(base, self.percentiles[HIGH])] if HIGH in self.percentiles else []
            pairs += [(self.maximum, base)] if self.maximum is not None else []
        return pairs


@dataclass
class Subject:
    """One model, calibration and number format. tensor: one scale per site; group: sort-and-cluster."""

    name: str
    model: str
    tensor: Side = field(default_factory=Side)
    group: Side = field(default_factory=Side)


@dataclass(frozen=True, eq=False)
class Case:
    """Everything the answers are drawn from."""

    runs: Comparison
    subjects: list[Subject]
    evidence: dict[tuple[int, int], Evidence]
    prints: dict[int, int]  # of every cell, see `evidence.digests`
    advice: list[Advice]
    silu: list[Silu]
    models: list[int]  # a cell of every model

    def at_site(self, columns: str, cells: Sequence[int], more: str = "") -> list[tuple[Any, ...]]:
        """Columns of scales.parquet, in SQL, of the rows of SITE. more: conditions and clauses to append."""
        return self.runs.sql(f"SELECT {columns} FROM {self.runs.source(SCALES, cells)} WHERE site = ? {more}", [SITE])


def subjects(runs: Comparison) -> list[Subject]:
    """In the order of the cells; of repeated cells the last counts. Channels are on neither path."""
    by_context: dict[tuple[str, ...], Subject] = {}
    several = len({c.format for c in runs.listed}) > 1
    for number, cell in enumerate(runs.listed):
        name = f"{cell.model} · {cell.format}" if several else cell.model
        here = by_context.setdefault((cell.model, *cell.calibration, cell.format), Subject(name, cell.model))
        if cell.granularity == "channel":
            continue
        side = here.tensor if cell.granularity == "tensor" else here.group
        if cell.method == "percentile" and cell.alpha is not None:
            side.percentiles[cell.alpha] = number
        elif cell.method == "minmax":
            side.minmax[cell.asked_alpha] = number
    return list(by_context.values())


@dataclass(frozen=True)
class Change:
    """Of a scale, relative, in one layer; se is one standard error, NaN if unknown. folds: behind it."""

    layer: int
    value: float
    se: float
    folds: int

    def __str__(self) -> str:
        return f"{plus(100 * self.value, 100 * self.se)} % in layer {self.layer}"

    def exceeds(self, least: float) -> bool:
        """Whether it is surely (95 %) more than `least`, in either direction."""
        return bool(abs(self.value) - quantile(0.95, freedom(self.folds)) * self.se > least)


def changes(e: Evidence) -> list[Change]:
    """Of the scale of x after SiLU, smallest first."""
    at = [i for i in np.flatnonzero(e.rows.site == SITE) if np.isfinite(e.rows.scale[i])]
    moves = [
        Change(
            int(e.rows.layer[i]),
            float(np.expm1(e.rows.scale[i])),
            float(e.rows.scale_se[i] * np.exp(e.rows.scale[i])),
            e.folds,
        )
        for i in at
    ]
    return sorted(moves, key=lambda c: c.value)


def decibels(e: Evidence) -> tuple[float, float]:
    """Mean over layers of the SQNR difference of x after SiLU, with its standard error; NaN if unknown."""
    for site, db, se in zip(e.means.site, e.means.sqnr, e.means.sqnr_se, strict=True):
        if site == SITE:
            return float(db), float(se)
    return float("nan"), float("nan")


def unite(verdicts: Iterable[str]) -> str:
    """One word for several models: their common one, or `holds in part`."""
    words = {v for v in verdicts if v != OPEN}
    return OPEN if not words else words.pop() if len(words) == 1 else PARTLY
