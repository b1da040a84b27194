"""Which setting to take: best on average, best per layer, and what one choice for all layers costs.

Judged by what it costs the network, measured or predicted, where that is known of every cell of a context; else by
SQNR averaged, in dB and with equal weight, over layers and the sites a deployment quantizes, which is a proxy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.compare.analysis.agreement import Agreement, kl_and_perplexity, with_sqnr
from sweep.compare.analysis.contexts import Context, contexts
from sweep.compare.analysis.cost import MEASURED, NEGLIGIBLE_NATS, PREDICTED, SQNR, Costs, Estimate, Pair
from sweep.compare.analysis.differences import evidence
from sweep.compare.analysis.significance import FAMILY, Floats, freedom, holm, p_values
from sweep.compare.analysis.verdicts import NEGLIGIBLE_DB
from sweep.compare.query.comparison import Arrays, Comparison

CONTEXTS = 12  # for which runners-up are tested; more would be no summary
RUNNERS_UP = 8


@dataclass(frozen=True)
class Runner:
    """A setting, its mean SQNR, and what that loses to the best setting's (dB, with its standard error or NaN).

    tied: what is lost, by the measure that ranks, is within its error, unknown, or below what matters.
    cost: in nats per token, None where SQNR ranks; more: than the best one's, None for the best and where its error
    was not asked for."""

    setting: str
    cell: int
    sqnr_db: float
    loss_db: float
    loss_se: float
    tied: bool
    cost: Estimate | None
    more: Estimate | None


@dataclass(frozen=True)
class LayerChoice:
    layer: int
    setting: str
    sqnr_db: float
    loss_db: float  # what the best global setting loses here


@dataclass(frozen=True)
class Advice:
    """runners[0] is the recommended setting, by `kind`: measured KL, predicted loss or SQNR. layer_loss_db: mean
    loss of one global choice against the best choice for every layer; site_loss_db: against the best one for every
    layer and site. agreement: how the cost ranks what SQNR ranks; perplexity: how perplexity ranks what measured KL
    ranks."""

    context: str
    kind: str
    runners: tuple[Runner, ...]
    layers: tuple[LayerChoice, ...]
    layer_loss_db: float
    site_loss_db: float
    agreement: Agreement | None
    perplexity: Agreement | None
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


def recommend(runs: Comparison, prints: dict[int, int] | None = None, costs: Costs | None = None) -> list[Advice]:
    """One piece of advice per context with more than one setting, see `contexts`; the first CONTEXTS of them.

    prints: `digests(runs)`; costs: `Costs.of(runs)`, where they are known already."""
    costs = costs or Costs.of(runs)
    chosen = [context for context in contexts(runs) if len(context.cells) > 1][:CONTEXTS]
    unknown = dict(runs.sql(UNKNOWN)) if any(c.granularity != "tensor" for c in runs.listed) else {}
    ranked = [_ranked(list(context.cells), unknown) for context in chosen]
    if not chosen:
        return []
    members = ", ".join(f"({c}, {n})" for c, numbers in enumerate(ranked) for n in numbers)
    found = runs.arrays(BY_LAYER.format(contexts=members))
    means = [_Means.of(found, c, numbers) for c, numbers in enumerate(ranked)]
    boards = [_Board.of(costs, c, m) for c, m in zip(chosen, means, strict=True) if len(m.layer)]
    pairs = [(b.order[0], n) for b in boards for n in b.order[1 : 1 + RUNNERS_UP]]
    known = [pair for pair in pairs if all(n in b.sqnr for b in boards if pair[0] in b.order for n in pair)]
    errors = {(e.baseline, e.other): e.overall[1] for e in evidence(runs, known, [True] * len(known), prints)}
    more = {
        pair: difference
        for kind in (MEASURED, PREDICTED)
        for pair, difference in costs.differences(
            kind, [p for p in pairs if any(b.kind == kind and p[0] in b.order for b in boards)]
        ).items()
    }
    tested = _corrected(runs, boards, errors, more)
    return [_advise(runs, b, errors, more, tested) for b in boards]


def _corrected(
    runs: Comparison,
    boards: list[_Board],
    errors: dict[Pair, float],
    more: dict[Pair, Estimate],
) -> dict[Pair, float]:
    """(best, other) → p of the loss, by Holm over all contexts. That the truly best setting is called worse than the
    one chosen is the error; the chosen one being the largest of many is no further test (Hsu, Annals of Statistics
    12, 1984)."""
    raw: dict[Pair, float] = {}
    for board in boards:
        best = board.order[0]
        for n in board.order[1:]:
            pair = (best, n)
            if pair in more:
                loss, error, df = more[pair].value, more[pair].se, more[pair].df
            elif board.kind == SQNR and pair in errors:
                folds = min(runs.listed[n].folds for n in pair)
                loss, error, df = board.sqnr[best] - board.sqnr[n], errors[pair], freedom(folds)
            else:
                continue
            raw[pair] = float(p_values(np.array([loss]), np.array([error]), df)[0])
    return dict(zip(raw, holm(np.array(list(raw.values()))).tolist(), strict=True))


def _ranked(numbers: list[int], unknown: dict[int, int]) -> list[int]:
    """The cells with the fewest places of unknown SQNR if those are several, else all."""
    least = min(unknown.get(n, 0) for n in numbers)
    known = [n for n in numbers if unknown.get(n, 0) == least]
    return known if len(known) > 1 else numbers


UNKNOWN = """
SELECT cell, count(*) FILTER (sqnr_db IS NULL OR isnan(sqnr_db)) FROM deployed GROUP BY cell"""


# Only rows that are finite in every cell of a context count, lest a setting be judged by other layers.
BY_LAYER = """
WITH contexts(context, cell) AS (VALUES {contexts}),
sizes AS (SELECT context, count(*) AS cells FROM contexts GROUP BY context),
chosen AS (SELECT context, cell, layer, site, sqnr_db FROM deployed JOIN contexts USING (cell)
           WHERE isfinite(sqnr_db)),
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


@dataclass(frozen=True, eq=False)
class _Board:
    """The cells of a context, best first, by the best measure that all of them share. sqnr: mean dB, where known."""

    context: Context
    means: _Means
    kind: str
    order: tuple[int, ...]
    sqnr: dict[int, float]
    costs: dict[int, Estimate]
    agreement: Agreement | None
    perplexity: Agreement | None

    @classmethod
    def of(cls, costs: Costs, context: Context, means: _Means) -> _Board:
        kind, sqnr = costs.kind(context.cells), means.of_cell
        values = {n: costs.values(kind)[n] for n in context.cells} if kind != SQNR else {}
        order = sorted(values, key=lambda n: values[n].value) if values else means.ranked
        return cls(
            context,
            means,
            kind,
            tuple(order),
            sqnr,
            values,
            with_sqnr(costs, context.cells, sqnr),
            kl_and_perplexity(costs, context.cells) if kind == MEASURED else None,
        )

    @property
    def names(self) -> dict[int, str]:
        return dict(zip(self.context.cells, self.context.names, strict=True))


def _advise(
    runs: Comparison,
    b: _Board,
    errors: dict[Pair, float],
    more: dict[Pair, Estimate],
    tested: dict[Pair, float],
) -> Advice:
    m, names = b.means, b.names
    first = b.order[0] if b.order[0] in m.cells else m.ranked[0]
    best = m.cells.index(first)
    top = m.table.argmax(0)
    here = np.arange(len(m.layer))
    loss = m.table[top, here] - m.table[best]
    choices = tuple(
        LayerChoice(int(m.layer[k]), names[m.cells[top[k]]], float(m.table[top[k], k]), float(loss[k])) for k in here
    )
    return Advice(
        b.context.text,
        b.kind,
        _runners(b, errors, more, tested),
        choices,
        float(np.average(loss, weights=m.weight)),
        float(np.average(m.best - m.table[best], weights=m.weight)),
        b.agreement,
        b.perplexity,
        tuple(name for n, name in names.items() if n not in b.order),
    )


def _runners(
    b: _Board, errors: dict[Pair, float], more: dict[Pair, Estimate], tested: dict[Pair, float]
) -> tuple[Runner, ...]:
    first, *others = b.order
    unknown = float("nan")
    names, least = b.names, b.sqnr.get(first, unknown)
    runners = [Runner(names[first], first, least, 0.0, 0.0, False, b.costs.get(first), None)]
    within = True
    for n in others:
        pair, sqnr = (first, n), b.sqnr.get(n, unknown)
        if pair in tested:  # who comes behind all that were tested is no better than the last of them
            within = not tested[pair] <= FAMILY
        small = least - sqnr < NEGLIGIBLE_DB
        if b.kind != SQNR:
            small = b.costs[n].value - b.costs[first].value < NEGLIGIBLE_NATS
        error = errors.get(pair, unknown)
        runners.append(Runner(names[n], n, sqnr, least - sqnr, error, small or within, b.costs.get(n), more.get(pair)))
    return tuple(runners)
