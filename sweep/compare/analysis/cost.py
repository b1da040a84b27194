"""The cost of a cell to the network, in nats per token: measured, else predicted, else unknown.

Measured is KL(unquantized || quantized) on held-out text, of all quantized sites at once. Predicted is half the sum of
squared gradients times squared rounding errors (the diagonal of the Fisher information; Kullback 1959, section 2.6),
collected with the calibration; where errors go together it is a lower estimate. Where there is neither of at least
half of the cells, they are ranked by their mean SQNR, a proxy that knows nothing of the network. Values of different
measures are never compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np

from sweep.compare.analysis.significance import Floats, freedom, jackknife, paired_error
from sweep.compare.query.comparison import Comparison
from sweep.compare.query.database import REPLICATES, SCALES, deployed
from sweep.runs.compared import Cell
from sweep.runs.ranks import ranks

if TYPE_CHECKING:
    from sweep.evaluation.scores import Scores

MEASURED, PREDICTED, SQNR = "measured KL", "predicted loss", "SQNR"
# 0.1 % of perplexity, the last digit that papers print of one (9.99 or 10.00)
NEGLIGIBLE_NATS = 1e-3
COLUMNS_READ = 500  # cells up to which tables are asked for what run.json does not say
NAN = float("nan")

Pair = tuple[int, int]


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error, NaN if unknown; df: degrees of freedom of that error, 0 if unknown."""

    value: float
    se: float = NAN
    df: float = 0.0


@dataclass(frozen=True, eq=False)
class Costs:
    """measured, predicted: by number of the cell, nats per token."""

    runs: Comparison
    measured: dict[int, Estimate]
    predicted: dict[int, Estimate]

    @classmethod
    def of(cls, runs: Comparison) -> Costs:
        measured = {n: kl for n, cell in enumerate(runs.listed) if (kl := _measured(cell))}
        return cls(runs, measured, _predicted(runs))

    def kind(self, cells: Iterable[int]) -> str:
        """The best measure that all of these cells share; measured only where it was on the same text and sites."""
        numbers = list(cells)
        if all(n in self.measured for n in numbers) and len({text(self.runs.listed[n]) for n in numbers}) == 1:
            return MEASURED
        return PREDICTED if numbers and all(n in self.predicted for n in numbers) else SQNR

    def ranked(self, cells: Sequence[int], baseline: int | None = None) -> tuple[str, list[int]]:
        """The measure that ranks cells, and those of them that it ranks, see `ranks`; else SQNR, which ranks all.

        baseline: a cell that has to be among them, since the others are held against it."""
        texts = Counter(text(self.runs.listed[n]) for n in cells if n in self.measured and baseline in (None, n))
        usual = max(texts, key=lambda t: texts[t], default=None)
        known = {
            MEASURED: [n for n in cells if n in self.measured and text(self.runs.listed[n]) == usual],
            PREDICTED: [n for n in cells if n in self.predicted and (baseline is None or baseline in self.predicted)],
        }
        kind = ranks({kind: len(numbers) for kind, numbers in known.items()}, len(cells))
        return (kind, known[kind]) if kind else (SQNR, list(cells))

    def values(self, kind: str) -> dict[int, Estimate]:
        """By number of the cell; empty for SQNR, which is no cost."""
        return {MEASURED: self.measured, PREDICTED: self.predicted}.get(kind, {})

    def differences(self, kind: str, pairs: Sequence[Pair]) -> dict[Pair, Estimate]:
        """(baseline, other) → what `other` costs more, nats per token.

        The error is that of differences: text by text for measured ones, fold by fold for predicted ones of one
        calibration. Where these are not at hand, both errors are taken as independent, which is too large."""
        values = self.values(kind)
        known = [pair for pair in pairs if pair[0] in values and pair[1] in values]
        folds = _folds(self.runs, {n for pair in known for n in pair}) if kind == PREDICTED else {}
        scores: dict[int, Scores | None] = {}
        differences = {}
        for a, b in known:
            value = values[b].value - values[a].value
            if kind == MEASURED:
                for n in (a, b):
                    if n not in scores:
                        scores[n] = _scores(self.runs.listed[n])
                exact = _texts(scores[a], scores[b])
            else:
                same = self.runs.listed[a].key == self.runs.listed[b].key
                error = paired_error(folds.get(a), folds.get(b)) if same else None
                exact = None if error is None else (error, freedom(len(folds[a])))
            se, df = exact or (float(np.hypot(values[a].se, values[b].se)), min(values[a].df, values[b].df))
            differences[a, b] = Estimate(value, se, df)
        return differences


def text(cell: Cell) -> tuple[Any, ...] | None:
    """Held-out text and quantized sites: measured costs are comparable only if these agree. None if unmeasured."""
    if not (evaluation := cell.evaluation):
        return None
    return (cell.identity, (evaluation.get("tokens") or {}).get("sha256"), tuple(evaluation.get("sites") or ()))


def _measured(cell: Cell) -> Estimate | None:
    evaluation = cell.evaluation or {}
    if (kl := evaluation.get("kl")) is None:
        return None
    error, texts = evaluation.get("kl_se"), (evaluation.get("tokens") or {}).get("samples", 8)
    return Estimate(float(kl), NAN if error is None else float(error), float(texts - 1))


def _predicted(runs: Comparison) -> dict[int, Estimate]:
    """Predicted loss as run.json sums it up; summed here if only some sites or layers are looked at."""
    whole = not (runs.filters.site or runs.filters.layer)
    known, others = {}, []
    for n, cell in enumerate(runs.listed):
        if whole and cell.loss and cell.loss.get("loss") is not None:
            error = cell.loss.get("loss_se")
            known[n] = Estimate(float(cell.loss["loss"]), NAN if error is None else float(error), freedom(cell.folds))
        elif cell.loss or len(runs.listed) <= COLUMNS_READ:
            others.append(n)
    return known | _summed(runs, others)


def _summed(runs: Comparison, cells: list[int]) -> dict[int, Estimate]:
    """Sums over the deployed sites of scales.parquet; none of a cell where a row of them is unknown."""
    rows = ask(runs, SCALES, cells, "SELECT cell, sum(loss), count(*) - count(loss) FROM {} GROUP BY cell")
    known = {cell: total for cell, total, unknown in rows if total is not None and not unknown}
    folds = _folds(runs, known)
    return {
        n: Estimate(total, float(jackknife(folds[n])) if n in folds else NAN, freedom(len(folds.get(n, ()))))
        for n, total in known.items()
    }


def _folds(runs: Comparison, cells: Iterable[int]) -> dict[int, Floats]:
    """Predicted loss of a cell without one fold, [K]; only of cells where all of it is known."""
    query = (
        "SELECT cell, list(total ORDER BY fold) FROM (SELECT cell, fold, sum(loss) AS total, "
        "count(*) - count(loss) AS unknown FROM {} GROUP BY cell, fold) GROUP BY cell HAVING sum(unknown) = 0"
    )
    return {cell: np.array(totals) for cell, totals in ask(runs, REPLICATES, list(cells), query)}


def ask(runs: Comparison, name: str, cells: list[int], query: str) -> list[tuple[Any, ...]]:
    """Rows of the query on the quantized sites of a file; empty if no cell has that file or column."""
    source = runs.source(name, cells) if cells else None
    if source is None:
        return []
    try:
        return runs.sql(query.format(f"(FROM {source} WHERE {deployed()})"))
    except duckdb.BinderException:
        return []


def _scores(cell: Cell) -> Scores | None:
    import pyarrow.parquet as pq  # here: most comparisons have no evaluated cell and need not wait for it

    from sweep.evaluation.scores import Scores

    if not (file := cell.path / "evaluation.parquet").is_file():
        return None
    return Scores.of(pq.read_table(file, filters=[("quantized", "=", "all")]))


def _texts(first: Scores | None, second: Scores | None) -> tuple[float, float] | None:
    if first is None or second is None:
        return None
    try:
        error = second.against(first)["delta_kl_se"]
    except ValueError:  # of other texts
        return None
    return None if error is None else (error, float(len(first.tokens) - 1))
