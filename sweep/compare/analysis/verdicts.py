"""A verdict for every question that the cells can answer, by the rules of `rules`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.compare.analysis.contrasts import Contrast, contrasts
from sweep.compare.analysis.cost import NEGLIGIBLE_NATS, SQNR, Costs, Pair
from sweep.compare.analysis.differences import Evidence, digests, evidence
from sweep.compare.analysis.effects import Effect, Nats, cost_differences, largest
from sweep.compare.analysis.perplexity import Perplexity, perplexities
from sweep.compare.analysis.rules import (
    DEAD,
    EACH,
    MATTERS,
    NEGLIGIBLE,
    NEGLIGIBLE_DB,
    NOISE,
    PAIRS,
    RULES,
    TOP,
    UNEXAMINED,
    UNRESOLVED,
)  # fmt: skip
from sweep.compare.analysis.significance import FAMILY, Floats, freedom, holm, quantile
from sweep.compare.query.comparison import Comparison


@dataclass(frozen=True, eq=False)
class Verdict:
    """The verdict on a knob in a context, with its evidence.

    mean: the largest difference of a site's mean over layers; row: the largest at one layer and site. Both
    are taken among the effects that count if any does. best: the value with the highest mean SQNR.
    silent: sites at which the knob changes nothing at all though it does elsewhere.
    bound: dB that no site's mean effect exceeds, at 95 % each (NaN if unknown).
    kind: the measure that decides; nats: by value, empty where it is SQNR.
    unknown: values whose cost is unknown though that of others is known. Where a cost decides they are not judged, and
    nothing here is of them; else they are why SQNR decides.
    """

    contrast: Contrast
    verdict: str
    mean: Effect | None
    row: Effect | None
    counted: int  # places (layer, site) where an effect counts by itself, of `places`
    places: int
    tests: int
    bound: float
    silent: tuple[str, ...]
    paired: bool
    folds: int
    perplexity: tuple[Perplexity, ...]
    evidence: tuple[Evidence, ...]
    kind: str = SQNR
    nats: tuple[Nats, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        return RULES[self.verdict]


def verdicts(
    runs: Comparison, baseline: str | None = None, prints: dict[int, int] | None = None, costs: Costs | None = None
) -> list[Verdict]:
    """A verdict for every question the cells can answer.

    prints: `digests(runs)`; costs: `Costs.of(runs)`, where they are known already.

    Raises UsageError for an unknown baseline."""
    questions = contrasts(runs.listed, baseline)
    prints = prints or digests(runs)
    costs = costs or Costs.of(runs)
    ranked = [costs.ranked(q.cells, q.cells[q.baseline]) for q in questions]
    chosen = _examined(runs, [_judged(q, *of) for q, of in zip(questions, ranked, strict=True)], prints)
    pairs = [(q, pair) for q, here in zip(questions, chosen, strict=True) for pair in here]
    scales_decide = [q.knob not in ("format", "granularity") for q, _ in pairs]
    examined = evidence(runs, [pair for _, pair in pairs], scales_decide, prints)
    tested = _corrected(examined)
    at, results = 0, []
    measured = perplexities(runs, questions)
    kinds, nats = cost_differences(costs, questions, chosen)
    unknown = [_unknown(costs, q, *of) for q, of in zip(questions, ranked, strict=True)]
    for question, here, texts, kind, more, left in zip(questions, chosen, measured, kinds, nats, unknown, strict=True):
        part = slice(at, at + len(here))
        at = part.stop
        same = len({prints[c] for c in question.cells}) == 1
        results.append(_judge(question, same, tested[part], texts, kind, more, left))
    return results


def _judged(question: Contrast, kind: str, ranked: Sequence[int]) -> list[Pair]:
    """The pairs of which the measure that decides is known. kind, ranked: that measure, and the cells it ranks."""
    known = set(ranked)
    return [pair for pair in question.pairs if kind == SQNR or pair[1] in known]


def _unknown(costs: Costs, question: Contrast, kind: str, ranked: Sequence[int]) -> tuple[str, ...]:
    """Values of unknown cost, if that of others is known: by the measure that decides, or where that is SQNR by any."""
    known = set(ranked) if kind != SQNR else set(question.cells) & (costs.measured.keys() | costs.predicted.keys())
    pairs = zip(question.values, question.cells, strict=True)
    return tuple(value for value, cell in pairs if known and cell not in known)


def _examined(runs: Comparison, judged: Sequence[list[Pair]], prints: dict[int, int]) -> list[list[Pair]]:
    """The pairs to test of every question: all, or in a huge sweep those whose mean SQNR differs most."""
    if sum(map(len, judged)) <= PAIRS:
        return list(judged)
    means = dict(runs.sql("SELECT cell, mean FROM totals WHERE mean IS NOT NULL"))
    ranked: list[tuple[float, int, Pair]] = []
    for i, pairs in enumerate(judged):
        differing = [(abs(means.get(b, 0) - means.get(a, 0)), i, (a, b)) for a, b in pairs if prints[a] != prints[b]]
        ranked += sorted(differing, reverse=True)[:EACH]
    chosen: list[list[Pair]] = [[] for _ in judged]
    for _, i, pair in sorted(ranked, reverse=True)[:TOP]:
        chosen[i].append(pair)
    return chosen


@dataclass(frozen=True, eq=False)
class _Tested:
    """The evidence of a pair of cells, and p of its rows, its site means and their scales, corrected for all tests of
    the report."""

    evidence: Evidence
    rows: Floats
    means: Floats
    scales: Floats


def _corrected(examined: Sequence[Evidence]) -> list[_Tested]:
    sizes = np.cumsum([len(e.rows.p) for e in examined])[:-1]
    counts = np.cumsum([len(e.means.p) for e in examined])[:-1]

    def family(parts: list[tuple[Floats, Floats]], cuts: NDArray[np.int64]) -> list[Floats]:
        if not parts:
            return []
        effect, p = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        corrected = holm(np.where(effect == 0, np.nan, p))  # what does not differ at all is no test
        return list(np.split(np.where(effect == 0, p, corrected), cuts))

    rows = family([(e.rows.sqnr, e.rows.p) for e in examined], sizes)
    means = family([(e.means.sqnr, e.means.p) for e in examined], counts)
    scales = family([(e.means.scale, e.means.scale_p) for e in examined], counts)
    return [_Tested(*of_pair) for of_pair in zip(examined, rows, means, scales, strict=True)]


def _judge(
    question: Contrast,
    same: bool,
    tested: Sequence[_Tested],
    measured: tuple[Perplexity, ...],
    kind: str,
    nats: tuple[Nats, ...],
    unknown: tuple[str, ...] = (),
) -> Verdict:
    examined = [t.evidence for t in tested]
    mean, averages = largest(question, [(t.evidence, t.evidence.means, t.means) for t in tested])
    row, counted = largest(question, [(t.evidence, t.evidence.rows, t.rows) for t in tested])
    scales_moved = any((t.scales <= FAMILY).any() for t in tested)
    folds = min((e.folds for e in examined), default=0)
    bound = float("nan")
    if folds > 1:
        reach = [np.abs(e.means.sqnr) + quantile(0.95, freedom(e.folds)) * e.means.sqnr_se for e in examined]
        bound = float(max((r.max() for r in reach if len(r)), default=float("nan")))
    if same:
        verdict = DEAD
    elif not examined:
        verdict = UNEXAMINED
    elif nats:
        verdict = _by_cost(nats, bool(averages + counted) or scales_moved)
    elif folds < 2:
        verdict = UNRESOLVED
    elif averages + counted:
        verdict = MATTERS
    elif any(e.blind for e in examined):
        verdict = UNRESOLVED
    elif scales_moved:
        verdict = NEGLIGIBLE if bound < NEGLIGIBLE_DB else UNRESOLVED
    else:
        verdict = NOISE
    return Verdict(
        question,
        verdict,
        mean,
        row,
        counted,
        max((len(e.rows.p) for e in examined), default=0),
        sum(len(e.rows.p) for e in examined),
        bound,
        _silent(examined),
        bool(examined) and all(e.paired for e in examined),
        folds,
        measured,
        tuple(examined),
        kind,
        nats,
        unknown,
    )


def _by_cost(nats: Sequence[Nats], moved: bool) -> str:
    """moved: whether any scale or SQNR differs beyond its error."""
    if any(n.p <= FAMILY and abs(n.more.value) >= NEGLIGIBLE_NATS for n in nats):
        return MATTERS
    moved = moved or any(n.p <= FAMILY for n in nats)
    if not moved:
        return NOISE
    return NEGLIGIBLE if all(n.reach < NEGLIGIBLE_NATS for n in nats) else UNRESOLVED


def _silent(examined: Sequence[Evidence]) -> tuple[str, ...]:
    names = {str(s) for e in examined for s in e.rows.site}
    moved = {str(s) for e in examined for s in e.rows.site[(e.rows.scale != 0) | (e.rows.sqnr != 0)]}
    return tuple(sorted(names - moved)) if moved else ()
