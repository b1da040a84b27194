"""The cost of a cell as charts draw it: the best measure that all shown cells of each model share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import duckdb

from sweep.compare.analysis.cost import MEASURED, PREDICTED, SQNR, Estimate, mean_sqnr
from sweep.compare.facts import Answer
from sweep.compare.query.database import SCALES, deployed

UNITS = {
    MEASURED: "KL to the unquantized model, nats per token",
    PREDICTED: "predicted loss, nats per token",
    SQNR: "mean SQNR of quantized sites, dB",
}


@dataclass(frozen=True, eq=False)
class Measure:
    """name: one of MEASURED, PREDICTED, SQNR. cells: known values by number of the shown cell."""

    name: str
    cells: dict[int, Estimate]

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

    def best(self) -> list[int]:
        """Numbers of the cells, best first."""
        return sorted(self.cells, key=lambda n: self.cells[n].value if self.lower else -self.cells[n].value)


def measure(a: Answer) -> Measure:
    """Measured KL or predicted loss where every shown cell of each model has it, else the SQNR that cells rank by."""
    models: dict[str, list[int]] = {}
    for n in a.shown:
        models.setdefault(a.runs.listed[n].model, []).append(n)
    kinds = {a.costs.kind(cells) for cells in models.values()}
    for name, values in ((MEASURED, a.costs.measured), (PREDICTED, a.costs.predicted)):
        if kinds == {name} or (name == PREDICTED and all(n in values for n in a.shown)):
            return Measure(name, {n: values[n] for n in a.shown})
    errors = mean_sqnr(a.runs, a.shown)
    ranked = {row.cell: row.sqnr for group in a.ranking for row in group.rows if row.sqnr is not None}
    return Measure(SQNR, {n: Estimate(ranked[n], errors[n].se) for n in a.shown if n in ranked and n in errors})


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
    return "noise over signal", a.runs.sql(f"{query} AND cell IN ({cells}) ORDER BY ALL")


def band(e: Estimate, log: bool = False) -> tuple[float | None, float | None]:
    """The value ± 2 standard errors. log: cut at a tenth of the value, since a logarithmic axis has no zero."""
    if math.isnan(e.se):
        return None, None
    low = e.value - 2 * e.se
    return (max(low, e.value / 10) if log else low), e.value + 2 * e.se
