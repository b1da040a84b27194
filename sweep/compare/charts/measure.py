"""What a cell costs, by the best measure that its cells have: KL measured on held-out text, the loss predicted from
squared gradients, or, where there is neither, the mean SQNR of its quantized sites."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sweep.compare.analysis.significance import jackknife
from sweep.compare.answer import Answer
from sweep.compare.query.comparison import Comparison
from sweep.compare.query.database import REPLICATES, SCALES

Cost = tuple[float, float | None]  # value and its standard error


@dataclass(frozen=True, eq=False)
class Measure:
    """name: in a heading. unit: on an axis. lower: whether less is better. proxy: whether it says nothing certain
    about the network. cells: value and standard error by cell."""

    name: str
    unit: str
    lower: bool
    proxy: bool
    digits: str
    cells: dict[int, Cost]

    @property
    def log(self) -> bool:
        return self.lower and all(value > 0 for value, _ in self.cells.values())

    def ranked(self) -> list[int]:
        """Numbers of the cells, best first."""
        return sorted(self.cells, key=lambda n: self.cells[n][0] if self.lower else -self.cells[n][0])


def deployed(sites: Sequence[str]) -> list[str]:
    """The sites that a deployment quantizes: what enters SiLU stays inside one kernel."""
    return [site for site in sites if not site.endswith("_pre") and site != "ssm_state"]


def measure(a: Answer) -> Measure:
    """The first of measured KL, predicted loss and SQNR that every shown cell has."""
    kl = _measured(a.runs, a.shown)
    if len(kl) == len(a.shown):
        return Measure("measured KL", "KL to the unquantized model, nats per token", True, False, ".3~g", kl)
    loss = _predicted(a.runs, a.shown)
    if len(loss) == len(a.shown):
        return Measure("predicted loss", "predicted loss, nats per token", True, False, ".3~g", loss)
    return Measure("SQNR", "mean SQNR of quantized sites, dB", False, True, ".2f", sqnr(a.runs, a.shown))


def by_place(a: Answer) -> tuple[str, str, list[tuple[int, int, str, float]]]:
    """What a place (layer and site) costs: (name, format of a number, [(cell, layer, site, value)]); quantized sites.
    Predicted loss where it is known, else the noise relative to the signal, mean (x − q(x))² / mean x²."""
    runs, sites = a.runs, deployed(a.runs.sites)
    listed = ", ".join(f"'{site}'" for site in sites)
    if losses := _with_loss(runs, a.shown):
        query = f"SELECT cell, layer, site, sum(loss) FROM {runs.source(SCALES, losses)} WHERE site IN ({listed}) "
        values = runs.sql(query + "GROUP BY ALL HAVING sum(loss) > 0 ORDER BY ALL")
        if values:
            return "predicted loss, nats per token", ".3~g", values
    cells = ", ".join(map(str, a.shown))
    query = f"SELECT cell, layer, site, pow(10, -sqnr_db / 10) FROM points WHERE cell IN ({cells}) "
    values = runs.sql(f"{query} AND isfinite(sqnr_db) AND site IN ({listed}) ORDER BY ALL")
    return "noise over signal", ".3~g", values


def sqnr(runs: Comparison, cells: Sequence[int]) -> dict[int, Cost]:
    """Mean SQNR over layers and quantized sites, dB, with its jackknife error where there are replicates."""
    listed = ", ".join(f"'{site}'" for site in deployed(runs.sites))
    numbers = ", ".join(map(str, cells))
    query = f"SELECT cell, avg(sqnr_db) FROM points WHERE cell IN ({numbers}) AND isfinite(sqnr_db) "
    means = dict(runs.sql(f"{query} AND site IN ({listed}) GROUP BY cell"))
    errors: dict[int, float] = {}
    plain = [n for n in cells if runs.listed[n].granularity == "tensor"]
    if plain and (source := runs.source(REPLICATES, plain)):
        folds = f"SELECT cell, fold, avg(sqnr_db) AS m FROM {source} WHERE isfinite(sqnr_db) AND site IN ({listed}) "
        each = f"SELECT cell, list(m ORDER BY fold) FROM ({folds} GROUP BY cell, fold) GROUP BY cell"
        errors = {n: float(jackknife(np.array(values))) for n, values in runs.sql(each) if len(values) > 1}
    return {n: (mean, errors.get(n)) for n, mean in means.items()}


def clipped(runs: Comparison, cells: Sequence[int]) -> dict[int, float]:
    """Share of values that are clipped, mean over layers and quantized sites."""
    listed = ", ".join(f"'{site}'" for site in deployed(runs.sites))
    source = runs.source(SCALES, cells)
    found = runs.sql(
        f"SELECT cell, sum(clip_fraction * n) / sum(n) FROM {source} WHERE site IN ({listed}) GROUP BY cell"
    )
    return {n: share for n, share in found if share is not None}


def tied(a: Answer, m: Measure, best: int, other: int) -> bool | None:
    """Whether `other` is as good as `best` within two standard errors of their difference; None where that is not
    known. The texts of a measured KL are paired."""
    error = _paired(a.runs.listed[other].path, a.runs.listed[best].path) if m.name == "measured KL" else None
    if error is None:
        errors = [m.cells[n][1] for n in (best, other)]
        if errors[0] is None or errors[1] is None:
            return None
        error = math.hypot(errors[0], errors[1])
    return abs(m.cells[other][0] - m.cells[best][0]) <= 2 * error


def _measured(runs: Comparison, cells: Sequence[int]) -> dict[int, Cost]:
    found = {n: runs.listed[n].evaluation or {} for n in cells}
    return {n: (e["kl"], e.get("kl_se")) for n, e in found.items() if e.get("kl") is not None}


def _predicted(runs: Comparison, cells: Sequence[int]) -> dict[int, Cost]:
    have = _with_loss(runs, cells)
    if not have:
        return {}
    listed = ", ".join(f"'{site}'" for site in deployed(runs.sites))
    query = (
        f"SELECT cell, sum(loss), sqrt(sum(loss_se ** 2)) FROM {runs.source(SCALES, have)} WHERE site IN ({listed}) "
    )
    return {n: (value, error) for n, value, error in runs.sql(query + "GROUP BY cell") if value is not None}


def _with_loss(runs: Comparison, cells: Sequence[int]) -> list[int]:
    """The cells whose table has a column of predicted losses."""
    import pyarrow.parquet as pq  # here: most comparisons draw nothing

    return [n for n in cells if "loss" in pq.read_schema(runs.listed[n].path / SCALES).names]


def _paired(cell: Path, best: Path) -> float | None:
    import pyarrow.parquet as pq

    from sweep.evaluation.scores import Scores

    scores = []
    for directory in (cell, best):
        if not (file := directory / "evaluation.parquet").is_file():
            return None
        scores.append(Scores.of(pq.read_table(file, filters=[("quantized", "=", "all")])))
    try:
        return scores[0].against(scores[1])["delta_kl_se"]
    except ValueError:
        return None
