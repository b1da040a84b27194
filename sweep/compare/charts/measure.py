"""The cost of a cell as charts draw it: by one measure, that which ranks them where all contexts have the same."""

from __future__ import annotations

import math
from dataclasses import dataclass

import duckdb
import numpy as np

from sweep.compare.analysis.cost import MEASURED, PREDICTED, SQNR, Estimate
from sweep.compare.analysis.mean_sqnr import mean_sqnr
from sweep.compare.analysis.place_errors import Place, replicates, sqnr_replicates
from sweep.compare.analysis.significance import Floats
from sweep.compare.facts import Answer
from sweep.compare.query.database import SCALES, deployed
from sweep.runs.compared import Cell

NOISE = "noise over signal"
UNITS = {
    MEASURED: "KL to the unquantized model, nats per token",
    PREDICTED: "predicted loss, nats per token",
    SQNR: "mean SQNR of quantized sites, dB",
}


@dataclass(frozen=True, eq=False)
class Measure:
    """name: one of MEASURED, PREDICTED, SQNR. cells: known values by number of the shown cell. unknown: shown cells
    that have none: not evaluated, or of groups and channels read off maxima, which tell neither loss nor SQNR.
    left_out: contexts that another measure ranks."""

    name: str
    cells: dict[int, Estimate]
    unknown: tuple[int, ...] = ()
    left_out: int = 0

    @property
    def unit(self) -> str:
        return UNITS[self.name]

    @property
    def lower(self) -> bool:
        """Whether less is better."""
        return self.name != SQNR

    @property
    def digits(self) -> str:
        """Vega's format of a value."""
        return ".3~g" if self.lower else ".2f"

    @property
    def log(self) -> bool:
        return self.lower and all(e.value > 0 for e in self.cells.values())

    @property
    def missing(self) -> str:
        """The words for an unknown value."""
        return {PREDICTED: "no prediction", MEASURED: "not measured"}.get(self.name, "unknown")

    def best(self) -> list[int]:
        """Numbers of the cells, best first."""
        return sorted(self.cells, key=lambda n: self.cells[n].value if self.lower else -self.cells[n].value)


def measure(a: Answer) -> Measure:
    """Measured KL where it ranks every context, else predicted loss where every cell that can have it
    does; else of the contexts that one of the two ranks, measured KL first; else the SQNR that all rank by."""
    if {group.kind for group in a.ranking} == {MEASURED}:
        measured = {n: a.costs.measured[n] for n in a.shown if n in a.costs.measured}
        return Measure(MEASURED, measured, tuple(n for n in a.shown if n not in measured))
    predicted = {n: a.costs.predicted[n] for n in a.shown if n in a.costs.predicted}
    without = tuple(n for n in a.shown if n not in predicted)
    if predicted and all(_of_maxima(a.runs.listed[n]) for n in without):
        return Measure(PREDICTED, predicted, without)
    for kind in (MEASURED, PREDICTED):
        if groups := [group for group in a.ranking if group.kind == kind]:
            cells = {row.cell for group in groups for row in group.rows} & set(a.shown)
            values = {n: e for n, e in a.costs.values(kind).items() if n in cells}
            unknown = tuple(sorted(cells - values.keys()))
            return Measure(kind, values, unknown, len(a.ranking) - len(groups))
    errors = mean_sqnr(a.runs, a.shown)
    ranked = {row.cell: row.sqnr for group in a.ranking for row in group.rows if row.sqnr is not None}
    known = {n: Estimate(ranked[n], errors[n].se) for n in a.shown if n in ranked and n in errors}
    return Measure(SQNR, known, tuple(n for n in a.shown if n not in known))


def _of_maxima(cell: Cell) -> bool:
    """Whether its clips are read off channels' maxima, which hold no distribution to tell a loss from."""
    return cell.granularity != "tensor" and cell.method == "minmax"


def by_place(a: Answer) -> tuple[str, list[tuple[int, int, str, float]]]:
    """Cost of every place (layer and quantized site): (name, [(cell, layer, site, value)]). Predicted loss if it is
    known, else the noise relative to the signal, mean (x − q(x))² / mean x²."""
    known = [n for n in a.shown if n in a.costs.predicted]
    if known and (source := a.runs.source(SCALES, known)):
        query = (
            f"SELECT cell, layer, site, sum(loss) FROM {source} WHERE {deployed()} GROUP BY ALL HAVING sum(loss) > 0"
        )
        try:
            return "predicted loss, nats per token", a.runs.sql(f"{query} ORDER BY ALL")
        except duckdb.BinderException:  # run.json knows the sum, the table of an older version not its parts
            pass
    cells = ", ".join(map(str, a.shown))
    query = "SELECT cell, layer, site, pow(10, -sqnr_db / 10) FROM deployed WHERE isfinite(sqnr_db)"
    return NOISE, a.runs.sql(f"{query} AND cell IN ({cells}) ORDER BY ALL")


def by_place_replicates(a: Answer, name: str) -> dict[Place, Floats]:
    """What `by_place` says without one fold, [K], of the cells that have replicates."""
    if name == NOISE:
        return {
            place: 10 ** (-db / 10) for place, db in sqnr_replicates(a.runs, a.shown).items() if np.isfinite(db).all()
        }
    return replicates(a.runs, [n for n in a.shown if n in a.costs.predicted], "sum(loss)")


def band(e: Estimate, log: bool = False) -> tuple[float | None, float | None]:
    """The value ± 2 standard errors. log: cut at a tenth of the value, since a logarithmic axis has no zero."""
    if math.isnan(e.se):
        return None, None
    low = e.value - 2 * e.se
    return (max(low, e.value / 10) if log else low), e.value + 2 * e.se
