"""The recommended setting, and those that come behind it.

Judged by what it costs the network, measured or predicted, where that is known of most cells of a context; else by
SQNR averaged, in dB and with equal weight, over layers and the sites a deployment quantizes, which is a proxy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sweep.compare.analysis.advice import Advice, Runner
from sweep.compare.analysis.board import Board
from sweep.compare.analysis.contexts import contexts
from sweep.compare.analysis.cost import MEASURED, NEGLIGIBLE_NATS, PREDICTED, SQNR, Costs, Estimate, Pair
from sweep.compare.analysis.differences import evidence
from sweep.compare.analysis.mean_sqnr import shared_mean
from sweep.compare.analysis.rules import NEGLIGIBLE_DB
from sweep.compare.analysis.significance import FAMILY, freedom, holm, p_values
from sweep.compare.query.comparison import Comparison

CONTEXTS = 12  # for which runners-up are tested; more would be no summary
RUNNERS_UP = 8


def recommend(runs: Comparison, prints: dict[int, int] | None = None, costs: Costs | None = None) -> list[Advice]:
    """One piece of advice per context with more than one setting, see `contexts`; the first CONTEXTS of them.

    prints: `digests(runs)`; costs: `Costs.of(runs)`, where they are known already."""
    costs = costs or Costs.of(runs)
    chosen = [context for context in contexts(runs) if len(context.cells) > 1][:CONTEXTS]
    unknown = dict(runs.sql("SELECT cell, unknown FROM totals"))
    members_of = {context: _members(context.cells, unknown, costs) for context in chosen}
    chosen = [context for context in chosen if members_of[context]]
    if not chosen:
        return []
    known_at = {context: shared_mean(runs, members_of[context]) for context in chosen}
    boards = [Board.of(costs, context, sqnr) for context, sqnr in known_at.items() if sqnr]
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
    return [_advise(b, errors, more, tested) for b in boards]


def _corrected(
    runs: Comparison,
    boards: list[Board],
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


def _members(numbers: Sequence[int], unknown: dict[int, int], costs: Costs) -> list[int]:
    """The cells with the fewest places of unknown SQNR, since others' is a mean of other places. Where that leaves
    one: all of them if their cost ranks them, else none."""
    least = min(unknown.get(n, 0) for n in numbers)
    known = [n for n in numbers if unknown.get(n, 0) == least]
    return known if len(known) > 1 else [] if costs.ranked(numbers)[0] == SQNR else list(numbers)


def _advise(b: Board, errors: dict[Pair, float], more: dict[Pair, Estimate], tested: dict[Pair, float]) -> Advice:
    return Advice(
        b.context.text,
        b.kind,
        _runners(b, errors, more, tested),
        b.agreement,
        b.perplexity,
        tuple(name for n, name in b.names.items() if n not in b.order),
    )


def _runners(
    b: Board, errors: dict[Pair, float], more: dict[Pair, Estimate], tested: dict[Pair, float]
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
