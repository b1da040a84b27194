"""Agreement of two measures that rank the same cells: on the best, with the error of the difference, and on the
rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sweep.compare.analysis.cost import MEASURED, PREDICTED, Costs, Estimate, Pair, text
from sweep.compare.analysis.perplexity import paired
from sweep.compare.analysis.significance import FAMILY, p_values
from sweep.compare.query.comparison import Comparison

CROSSING = 10  # pairs that are ranked the other way round, those of the largest difference, whose error is asked for
AGREE, TIED, DISAGREE = "agrees", "is tied", "disagrees"

Differences = Callable[[Sequence[Pair]], Mapping[Pair, Estimate]]


@dataclass(frozen=True)
class Agreement:
    """The ranking by a measure `other` beside that by a first measure.

    verdict: AGREE where both hold the same cell best; TIED where the first one's best is worse than the other's own by
    no more than the error of that difference tells; else DISAGREE. first, best: the cells best by either. difference:
    what `first` has more than `best`, in units of `other`. rank: Spearman's correlation over `cells` cells.
    crossed: the pair that the two measures rank the other way round, beyond the error, with the largest difference:
    (better by the first measure, better by the other); None where there is none."""

    other: str
    verdict: str
    first: int
    best: int
    difference: Estimate
    rank: float
    cells: int
    crossed: Pair | None


@dataclass(frozen=True)
class Calibration:
    """Measured against predicted cost over all evaluated cells. factor: the median of measured / predicted, low and
    high its extremes; rank: Spearman's correlation."""

    cells: int
    rank: float
    factor: float
    low: float
    high: float


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Rank correlation, ties sharing their mean rank; NaN for fewer than three or where one does not vary."""
    from scipy.stats import rankdata  # here: most starts of the program compare nothing

    if len(x) < 3:
        return float("nan")
    a, b = rankdata(x), rankdata(y)
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) and np.ptp(b) else float("nan")


def compare(first: Mapping[int, float], other: Mapping[int, float], name: str, differ: Differences) -> Agreement | None:
    """Agreement of two rankings; less is better in both. None for fewer than two cells known to both.

    differ: (a, b) → what b has more than a by the other measure, with its error."""
    numbers = [n for n in first if n in other and np.isfinite(first[n]) and np.isfinite(other[n])]
    if len(numbers) < 2:
        return None
    a, b = min(numbers, key=lambda n: first[n]), min(numbers, key=lambda n: other[n])
    against = [(b, a)] if a != b else []
    crossing = [(m, n) for m in numbers for n in numbers if first[n] < first[m] and other[n] > other[m]]
    crossing = sorted(crossing, key=lambda pair: other[pair[0]] - other[pair[1]])[:CROSSING]
    differences = differ([*against, *crossing])
    verdict = AGREE if a == b else TIED if not _sure(differences.get((b, a))) else DISAGREE
    crossed = max((p for p in crossing if _sure(differences.get(p))), key=lambda p: differences[p].value, default=None)
    return Agreement(
        name,
        verdict,
        a,
        b,
        Estimate(0.0, 0.0) if a == b else differences.get((b, a), Estimate(other[a] - other[b])),
        spearman([first[n] for n in numbers], [other[n] for n in numbers]),
        len(numbers),
        (crossed[1], crossed[0]) if crossed else None,
    )


def perplexities(runs: Comparison, numbers: Sequence[int]) -> dict[int, float]:
    """Measured perplexity by cell; empty if it was measured on several texts."""
    known = {}
    for n in numbers:
        if (evaluation := runs.listed[n].evaluation) and evaluation.get("perplexity") is not None:
            known[n] = float(evaluation["perplexity"])
    return known if len({text(runs.listed[n]) for n in known}) == 1 else {}


def perplexity_differences(runs: Comparison) -> Differences:
    """(a, b) → the perplexity of b less that of a; errors text by text where the scores are at hand."""

    def differ(pairs: Sequence[Pair]) -> dict[Pair, Estimate]:
        differences = {}
        for a, b in pairs:
            one, two = (runs.listed[n].evaluation or {} for n in (a, b))
            error, texts = paired(runs.listed[b].path, runs.listed[a].path) or (
                float(np.hypot(one.get("perplexity_se") or np.nan, two.get("perplexity_se") or np.nan)),
                8,
            )
            differences[a, b] = Estimate(two["perplexity"] - one["perplexity"], error, texts - 1)
        return differences

    return differ


def calibration(costs: Costs) -> Calibration | None:
    """Measured against predicted cost of all cells that have both; None for fewer than two."""
    both = [n for n in costs.measured if n in costs.predicted and costs.predicted[n].value > 0]
    if len(both) < 2:
        return None
    measured = [costs.measured[n].value for n in both]
    predicted = [costs.predicted[n].value for n in both]
    ratio = np.array(measured) / np.array(predicted)
    return Calibration(
        len(both), spearman(predicted, measured), float(np.median(ratio)), float(ratio.min()), float(ratio.max())
    )


def kl_and_perplexity(costs: Costs, numbers: Sequence[int]) -> Agreement | None:
    """Agreement of perplexity with measured KL."""
    kl = {n: costs.measured[n].value for n in numbers if n in costs.measured}
    theirs = perplexities(costs.runs, list(kl))
    return compare(kl, theirs, "perplexity", perplexity_differences(costs.runs))


def with_sqnr(costs: Costs, numbers: Sequence[int], sqnr: Mapping[int, float]) -> Agreement | None:
    """Agreement of the cost of `numbers` with their SQNR (dB); None unless the cost of all of them is known."""
    kind = costs.kind(numbers)
    if kind not in (MEASURED, PREDICTED):
        return None
    values = {n: costs.values(kind)[n].value for n in numbers}
    return compare({n: -sqnr[n] for n in numbers if n in sqnr}, values, kind, lambda p: costs.differences(kind, p))


def _sure(difference: Estimate | None) -> bool:
    if difference is None or not np.isfinite(difference.se):
        return False
    p = p_values(np.array([difference.value]), np.array([difference.se]), difference.df)
    return bool(p[0] <= FAMILY)
