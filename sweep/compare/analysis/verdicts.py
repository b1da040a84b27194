"""Verdicts: what a knob does, said only as strongly as the evidence allows.

The rule, in words that every report prints (sentences.rules): six families of tests per report – the SQNR
of every site's mean over layers, of every single (layer, site), the scale of every site's mean, what other
settings lose to the recommended one, perplexity, and the cost in nats – each corrected by Holm to a sixth of 5 %: at
most 5 % for any false alarm in the whole report, however many rows it has. Where the cost of every cell is known,
measured or predicted, it decides: an effect matters from 0.001 nats per token on. Elsewhere an effect is one that the
scales and the SQNR both show, and it matters from 0.1 dB on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.compare.analysis.contrasts import Contrast, contrasts
from sweep.compare.analysis.cost import NEGLIGIBLE_NATS, SQNR, Costs, Estimate
from sweep.compare.analysis.differences import Differences, Evidence, digests, evidence
from sweep.compare.analysis.perplexity import Perplexity, perplexities
from sweep.compare.analysis.significance import FAMILY, Floats, freedom, holm, p_values, quantile
from sweep.compare.query.comparison import Comparison
from sweep.quantization.sites import quantized

DEAD, NOISE, NEGLIGIBLE, MATTERS, UNRESOLVED, UNEXAMINED = (
    "dead knob",
    "no effect beyond noise",
    "real but negligible",
    "matters",
    "unresolved",
    "not examined",
)
NEGLIGIBLE_DB = 0.1
PAIRS = 2000  # of cells up to which all are tested; beyond, the TOP ones whose mean SQNR differs most
TOP, EACH = 100, 10  # of all, and of one question

RULES = {
    DEAD: "not one bit of any scale or SQNR differs between the cells",
    NOISE: "no difference of scales stands out of its error after Holm's correction",
    NEGLIGIBLE: f"the scales differ beyond their error, yet the cost by less than {NEGLIGIBLE_NATS} nats per token, or "
    f"where that is unknown SQNR by less than {NEGLIGIBLE_DB} dB, error included",
    MATTERS: f"the cost differs beyond its error, by at least {NEGLIGIBLE_NATS} nats per token (0.1 % of perplexity, "
    "the last digit that papers print of one); where it is unknown, scales and SQNR both do, SQNR by at least "
    f"{NEGLIGIBLE_DB} dB somewhere",
    UNRESOLVED: "a difference that its error neither confirms nor bounds, or no replicates to tell an error from",
    UNEXAMINED: f"there are differences; of that many cells, only the {TOP} pairs that differ most were tested",
}


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
    """What one value costs more than the baseline, nats per token; p is corrected for all such tests of the report."""

    value: str
    more: Estimate
    p: float

    @property
    def reach(self) -> float:
        """What its size does not exceed, at 95 %; NaN if unknown."""
        return abs(self.more.value) + quantile(0.95, self.more.df) * self.more.se


@dataclass(frozen=True, eq=False)
class Verdict:
    """What `knob` does in `context`, and why that is said.

    mean: the largest difference of a site's mean over layers; row: the largest at one layer and site. Both
    are taken among the effects that count if any does. best: the value with the highest mean SQNR.
    silent: sites at which the knob changes nothing at all though it does elsewhere.
    bound: dB that no site's mean effect exceeds, at 95 % each (NaN if unknown).
    kind: the measure that decides; nats: by value, empty where it is SQNR.
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
    chosen = _examined(runs, questions, prints)
    pairs = [(q, pair) for q, here in zip(questions, chosen, strict=True) for pair in here]
    scales_decide = [q.knob not in ("format", "granularity") for q, _ in pairs]
    found = evidence(runs, [pair for _, pair in pairs], scales_decide, prints)
    rows, means, scales = _corrected(found)
    at, results = 0, []
    measured = perplexities(runs, questions)
    kinds, nats = _nats(costs or Costs.of(runs), questions, chosen)
    for question, here, texts, kind, more in zip(questions, chosen, measured, kinds, nats, strict=True):
        part = slice(at, at + len(here))
        at = part.stop
        same = len({prints[c] for c in question.cells}) == 1
        results.append(_judge(question, same, found[part], rows[part], means[part], scales[part], texts, kind, more))
    return results


def _examined(runs: Comparison, questions: Sequence[Contrast], prints: dict[int, int]) -> list[list[tuple[int, int]]]:
    """The pairs to test of every question: all, or in a huge sweep those whose mean SQNR differs most."""
    if sum(len(q.pairs) for q in questions) <= PAIRS:
        return [q.pairs for q in questions]
    means = dict(runs.sql("SELECT cell, avg(sqnr_db) FROM deployed WHERE isfinite(sqnr_db) GROUP BY cell"))
    ranked: list[tuple[float, int, tuple[int, int]]] = []
    for i, q in enumerate(questions):
        differing = [(abs(means.get(b, 0) - means.get(a, 0)), i, (a, b)) for a, b in q.pairs if prints[a] != prints[b]]
        ranked += sorted(differing, reverse=True)[:EACH]
    chosen: list[list[tuple[int, int]]] = [[] for _ in questions]
    for _, i, pair in sorted(ranked, reverse=True)[:TOP]:
        chosen[i].append(pair)
    return chosen


def _corrected(found: Sequence[Evidence]) -> tuple[list[Floats], list[Floats], list[Floats]]:
    """Adjusted p of every row, every site mean, and every site mean's scale, over the whole report."""
    sizes = np.cumsum([len(e.rows.p) for e in found])[:-1]
    counts = np.cumsum([len(e.means.p) for e in found])[:-1]

    def family(parts: list[tuple[Floats, Floats]], cuts: NDArray[np.int64]) -> list[Floats]:
        if not parts:
            return []
        effect, p = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        corrected = holm(np.where(effect == 0, np.nan, p))  # what does not differ at all is no test
        return list(np.split(np.where(effect == 0, p, corrected), cuts))

    return (
        family([(e.rows.sqnr, e.rows.p) for e in found], sizes),
        family([(e.means.sqnr, e.means.p) for e in found], counts),
        family([(e.means.scale, e.means.scale_p) for e in found], counts),
    )


def _judge(
    question: Contrast,
    same: bool,
    found: Sequence[Evidence],
    rows: Sequence[Floats],
    means: Sequence[Floats],
    scales: Sequence[Floats],
    measured: tuple[Perplexity, ...],
    kind: str,
    nats: tuple[Nats, ...],
) -> Verdict:
    mean, averages = _largest(question, [(e, e.means, p) for e, p in zip(found, means, strict=True)])
    row, counted = _largest(question, [(e, e.rows, p) for e, p in zip(found, rows, strict=True)])
    folds = min((e.folds for e in found), default=0)
    bound = float("nan")
    if folds > 1:
        reach = [np.abs(e.means.sqnr) + quantile(0.95, freedom(e.folds)) * e.means.sqnr_se for e in found]
        bound = float(max((r.max() for r in reach if len(r)), default=float("nan")))
    if same:
        verdict = DEAD
    elif not found:
        verdict = UNEXAMINED
    elif nats:
        verdict = _by_cost(nats, bool(averages + counted) or any((p <= FAMILY).any() for p in scales))
    elif folds < 2:
        verdict = UNRESOLVED
    elif averages + counted:
        verdict = MATTERS
    elif any(e.blind for e in found):
        verdict = UNRESOLVED
    elif any((p <= FAMILY).any() for p in scales):
        verdict = NEGLIGIBLE if bound < NEGLIGIBLE_DB else UNRESOLVED
    else:
        verdict = NOISE
    return Verdict(
        question,
        verdict,
        mean,
        row,
        counted,
        max((len(e.rows.p) for e in found), default=0),
        sum(len(e.rows.p) for e in found),
        bound,
        _silent(found),
        bool(found) and all(e.paired for e in found),
        folds,
        measured,
        tuple(found),
        kind,
        nats,
    )


def _by_cost(nats: Sequence[Nats], moved: bool) -> str:
    """moved: whether any scale or SQNR differs beyond its error."""
    if any(n.p <= FAMILY and abs(n.more.value) >= NEGLIGIBLE_NATS for n in nats):
        return MATTERS
    moved = moved or any(n.p <= FAMILY for n in nats)
    if not moved:
        return NOISE
    return NEGLIGIBLE if all(n.reach < NEGLIGIBLE_NATS for n in nats) else UNRESOLVED


def _nats(
    costs: Costs, questions: Sequence[Contrast], chosen: Sequence[Sequence[tuple[int, int]]]
) -> tuple[list[str], list[tuple[Nats, ...]]]:
    """Per question the measure that its cells share, and the differences to the baseline where that is a cost."""
    kinds = [costs.kind(q.cells) for q in questions]
    known = [costs.differences(k, list(pairs)) for k, pairs in zip(kinds, chosen, strict=True)]
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


def _largest(question: Contrast, parts: Sequence[tuple[Evidence, Differences, Floats]]) -> tuple[Effect | None, int]:
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


def _silent(found: Sequence[Evidence]) -> tuple[str, ...]:
    names = {str(s) for e in found for s in e.rows.site}
    moved = {str(s) for e in found for s in e.rows.site[(e.rows.scale != 0) | (e.rows.sqnr != 0)]}
    return tuple(sorted(names - moved)) if moved else ()
