"""All of the seed's questions, in its order."""

from __future__ import annotations

from sweep.compare.analysis.advice import Advice
from sweep.compare.analysis.differences import evidence
from sweep.compare.analysis.silu_gain import Silu
from sweep.compare.query.comparison import Comparison
from sweep.compare.studies.quamba_alpha import alpha, shape, silu, tail
from sweep.compare.studies.quamba_alpha.reply import HIGH, MODERATE, SITE, Case, Reply, subjects

QUESTIONS = (
    alpha.acts,
    tail.tail,
    silu.sizes,
    silu.expands,
    silu.layers,
    alpha.minmax,
    shape.structure,
    alpha.advisable,
    shape.unmeasured,
)
MODELS = 6  # subjects that are answered one by one


def replies(
    runs: Comparison, advice: list[Advice], gains: list[Silu], models: list[int], prints: dict[int, int]
) -> list[Reply]:
    """An answer to each question if these cells are a study like the seed's, else none.

    They are if a model has percentile cells at both of the seed's alphas, and grouped cells or several models
    besides: a plain alpha grid asks less. models: a cell of every model. prints: `digests(runs)`."""
    chosen = subjects(runs)
    both = any({MODERATE, HIGH} <= s.tensor.percentiles.keys() for s in chosen)
    beside = len(models) > 1 or any(s.group.minmax or s.group.percentiles for s in chosen)
    if not both or not beside or SITE not in runs.sites:
        return []
    case = Case(runs, chosen[:MODELS], {}, prints, advice, gains, models)
    pairs = [pair for s in case.subjects for side in (s.tensor, s.group) for pair in side.pairs]
    for e in evidence(runs, pairs, [True] * len(pairs), prints):
        case.evidence[e.baseline, e.other] = e
    return [question(case) for question in QUESTIONS]
