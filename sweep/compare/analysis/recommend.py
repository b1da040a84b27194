"""Which setting to take: best on average, best per layer, and what one choice for all layers costs.

Judged by SQNR averaged, in dB and with equal weight, over layers and the sites a deployment quantizes (the
input of SiLU is not one). That is a proxy: where cells were evaluated, perplexity has the last word.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.compare.analysis.differences import evidence
from sweep.compare.analysis.significance import FAMILY, Floats, freedom, holm, p_values
from sweep.compare.analysis.verdicts import NEGLIGIBLE_DB
from sweep.compare.query.comparison import Arrays, Comparison

CONTEXTS = 12  # for which runners-up are tested; more would be no summary
RUNNERS_UP = 8


@dataclass(frozen=True)
class Runner:
    """A setting, its mean SQNR, and what it loses to the best one (dB, with its standard error or NaN).

    tied: the loss is within its error, unknown, or below what matters."""

    setting: str
    cell: int
    sqnr_db: float
    loss_db: float
    loss_se: float
    tied: bool


@dataclass(frozen=True)
class LayerChoice:
    layer: int
    setting: str
    sqnr_db: float
    loss_db: float  # what the best global setting loses here


@dataclass(frozen=True)
class Advice:
    """runners[0] is the recommended setting. layer_loss_db: mean loss of one global choice against the best
    choice for every layer; site_loss_db: against the best one for every layer and site."""

    context: str
    runners: tuple[Runner, ...]
    layers: tuple[LayerChoice, ...]
    layer_loss_db: float
    site_loss_db: float
    by_perplexity: str | None
    unranked: tuple[str, ...]  # settings whose SQNR is not known at every place where others' is

    @property
    def best(self) -> Runner:
        return self.runners[0]

    @property
    def worst_layer(self) -> LayerChoice:
        return max(self.layers, key=lambda choice: choice.loss_db)

    @property
    def settings_by_layer(self) -> int:
        """How many different settings are best in some layer."""
        return len({choice.setting for choice in self.layers})


def recommend(runs: Comparison, prints: dict[int, int] | None = None) -> list[Advice]:
    """One piece of advice per model, calibration, format and granularity with more than one setting.

    prints: `digests(runs)`, where they are known already."""
    groups: dict[tuple[str, ...], dict[str, int]] = defaultdict(dict)
    for number, cell in enumerate(runs.listed):
        context = (cell.model, *cell.calibration, cell.format, cell.granularity)
        group = groups[context]
        earlier = group.get(cell.setting)
        if earlier is None or runs.listed[earlier].finished <= cell.finished:
            group[cell.setting] = number
    contexts = [sorted(group.values()) for group in groups.values() if len(group) > 1][:CONTEXTS]
    unknown = dict(runs.sql(UNKNOWN)) if any(c.granularity != "tensor" for c in runs.listed) else {}
    left = [_ranked(numbers, unknown) for numbers in contexts]
    unranked = [[n for n in c if n not in chosen] for c, chosen in zip(contexts, left, strict=True)]
    contexts = left
    if not contexts:
        return []
    members = ", ".join(f"({c}, {n})" for c, numbers in enumerate(contexts) for n in numbers)
    found = runs.arrays(BY_LAYER.format(contexts=members))
    means = [_Means.of(found, c, numbers) for c, numbers in enumerate(contexts)]
    names = [tuple(runs.listed[n].setting for n in u) for u, m in zip(unranked, means, strict=True) if len(m.layer)]
    means = [m for m in means if len(m.layer)]
    pairs = [(m.ranked[0], n) for m in means for n in m.ranked[1 : 1 + RUNNERS_UP]]
    errors = {(e.baseline, e.other): e.overall[1] for e in evidence(runs, pairs, [True] * len(pairs), prints)}
    tested = _corrected(runs, means, errors)
    return [_advise(runs, m, errors, tested, without) for m, without in zip(means, names, strict=True)]


def _corrected(
    runs: Comparison, means: list[_Means], errors: dict[tuple[int, int], float]
) -> dict[tuple[int, int], float]:
    """(best, other) → p of the loss, by Holm over all contexts. That the truly best setting is called worse than the
    one chosen is the error; the chosen one being the largest of many is no further test (Hsu, Annals of Statistics
    12, 1984)."""
    losses = {(m.ranked[0], n): m.of_cell[m.ranked[0]] - m.of_cell[n] for m in means for n in m.ranked[1:]}
    pairs = [pair for pair in losses if pair in errors]
    found = [
        p_values(np.array([losses[pair]]), np.array([errors[pair]]), freedom(min(runs.listed[n].folds for n in pair)))
        for pair in pairs
    ]
    return dict(zip(pairs, holm(np.array(found).ravel()).tolist(), strict=True))


def _ranked(numbers: list[int], unknown: dict[int, int]) -> list[int]:
    """The cells with the fewest places of unknown SQNR if those are several, else all."""
    least = min(unknown.get(n, 0) for n in numbers)
    known = [n for n in numbers if unknown.get(n, 0) == least]
    return known if len(known) > 1 else numbers


UNKNOWN = """
SELECT cell, count(*) FILTER (sqnr_db IS NULL OR isnan(sqnr_db)) FROM points
WHERE NOT ends_with(site, '_pre') GROUP BY cell"""


# Only rows that are finite in every cell of a context count, lest a setting be judged by other layers.
BY_LAYER = """
WITH contexts(context, cell) AS (VALUES {contexts}),
sizes AS (SELECT context, count(*) AS cells FROM contexts GROUP BY context),
chosen AS (SELECT context, cell, layer, site, sqnr_db FROM points JOIN contexts USING (cell)
           WHERE isfinite(sqnr_db) AND NOT ends_with(site, '_pre')),
shared AS (SELECT context, layer, site, max(sqnr_db) AS best FROM chosen JOIN sizes USING (context)
           GROUP BY context, layer, site, cells HAVING count(*) = cells)
SELECT context, cell, layer, avg(sqnr_db) AS sqnr, avg(best) AS best, count(*) AS weight
FROM chosen JOIN shared USING (context, layer, site) GROUP BY context, cell, layer ORDER BY context, cell, layer"""


@dataclass(frozen=True, eq=False)
class _Means:
    """Mean SQNR of a context. cells: numbers, ascending. layer, weight (sites in it), best (mean over sites of
    the best setting's): [layer]; table: [cell, layer]."""

    cells: list[int]
    layer: NDArray[np.int64]
    weight: NDArray[np.int64]
    best: Floats
    table: Floats

    @classmethod
    def of(cls, rows: Arrays, context: int, cells: list[int]) -> _Means:
        mine = rows["context"] == context
        shape = (len(cells), -1)
        first = {name: rows[name][mine].reshape(shape)[0] for name in ("layer", "weight", "best")}
        return cls(cells, **first, table=rows["sqnr"][mine].reshape(shape))

    @property
    def means(self) -> Floats:
        return np.asarray(np.average(self.table, axis=1, weights=self.weight))

    @property
    def of_cell(self) -> dict[int, float]:
        return dict(zip(self.cells, self.means.tolist(), strict=True))

    @property
    def ranked(self) -> list[int]:
        """Numbers of the cells, best first."""
        return [self.cells[i] for i in np.argsort(-self.means, kind="stable")]


def _advise(
    runs: Comparison,
    m: _Means,
    errors: dict[tuple[int, int], float],
    tested: dict[tuple[int, int], float],
    unranked: tuple[str, ...],
) -> Advice:
    best = m.cells.index(m.ranked[0])
    top = m.table.argmax(0)
    here = np.arange(len(m.layer))
    loss = m.table[top, here] - m.table[best]
    names = [runs.listed[n].setting for n in m.cells]
    choices = tuple(
        LayerChoice(int(m.layer[k]), names[top[k]], float(m.table[top[k], k]), float(loss[k])) for k in here
    )
    cell = runs.listed[m.cells[0]]
    return Advice(
        f"{cell.model} · {cell.format} · {cell.granularity}",
        _runners(runs, m, errors, tested),
        choices,
        float(np.average(loss, weights=m.weight)),
        float(np.average(m.best - m.table[best], weights=m.weight)),
        _by_perplexity(runs, m.cells),
        unranked,
    )


def _runners(
    runs: Comparison, m: _Means, errors: dict[tuple[int, int], float], tested: dict[tuple[int, int], float]
) -> tuple[Runner, ...]:
    means, (first, *others) = m.of_cell, m.ranked
    runners = [Runner(runs.listed[first].setting, first, means[first], 0.0, 0.0, False)]
    within = True
    for n in others:
        loss, pair = means[first] - means[n], (first, n)
        if pair in tested:  # who comes behind all that were tested is no better than the last of them
            within = not tested[pair] <= FAMILY
        tied = loss < NEGLIGIBLE_DB or within
        runners.append(Runner(runs.listed[n].setting, n, means[n], loss, errors.get(pair, float("nan")), tied))
    return tuple(runners)


def _by_perplexity(runs: Comparison, numbers: list[int]) -> str | None:
    measured = {
        runs.listed[n].setting: evaluation["perplexity"]
        for n in numbers
        if (evaluation := runs.listed[n].evaluation) and evaluation.get("perplexity") is not None
    }
    return min(measured, key=lambda setting: measured[setting]) if len(measured) > 1 else None
