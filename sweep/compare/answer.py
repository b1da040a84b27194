"""Everything a comparison has to say, computed once, for every output to show."""

from __future__ import annotations

from dataclasses import dataclass

from sweep.compare.analysis.convergence import Convergence, convergence
from sweep.compare.analysis.differences import digests
from sweep.compare.analysis.recommend import Advice, recommend
from sweep.compare.analysis.silu_gain import Silu, silu
from sweep.compare.analysis.verdicts import Verdict, verdicts
from sweep.compare.query.comparison import Comparison
from sweep.compare.render import sentences
from sweep.compare.studies.quamba_alpha import replies
from sweep.compare.studies.quamba_alpha.reply import Reply
from sweep.compare.tables.pivots import METRICS, main_site, one_per_model, pick
from sweep.core.errors import allowed

SHOWN = 24  # cells that tables by cell and charts show
FEW = 500  # cells up to which every table is made


@dataclass(frozen=True, eq=False)
class Answer:
    """shown: numbers of the cells that per-cell tables and charts show; all of them unless there are many.
    seed: answers to the questions of the study this project grew from, where the cells are such a study."""

    runs: Comparison
    site: str
    metric: str
    shown: list[int]
    verdicts: list[Verdict]
    advice: list[Advice]
    silu: list[Silu]
    convergence: list[Convergence]
    notes: list[str]
    seed: list[Reply]


def answer(runs: Comparison, baseline: str | None = None, metric: str = "scale") -> Answer:
    """Ask every question the cells can answer. Raises UsageError for an unknown baseline or metric."""
    if metric not in METRICS:
        raise allowed("metric", metric, METRICS)
    everything = list(range(len(runs.listed)))
    shown = pick(everything, SHOWN)
    few = everything if len(everything) <= FEW else shown
    notes = []
    if len(everything) > len(shown):
        notes.append(f"per-cell tables and charts show {len(shown)} of {len(everything)} cells; filter to see others")
    copies = {f"{c.distinct} of the samples {c.sizes}" for c in runs.listed if c.repeats}
    notes += [f"only {text} are distinct, the others are copies: errors count distinct ones" for text in sorted(copies)]
    prints = digests(runs)
    advice, gains = recommend(runs, prints), silu(runs, few)
    return Answer(
        runs,
        main_site(runs),
        metric,
        shown,
        verdicts(runs, baseline, prints),
        advice,
        gains,
        convergence(runs, shown),
        notes,
        replies(runs, advice, gains, one_per_model(runs), prints) if few is everything else [],
    )


def headlines(a: Answer) -> list[str]:
    """The answer in a few sentences: what to take, what SiLU does, whether more data helps, what is unmeasured."""
    text = [sentences.advice(one) for one in a.advice[:4]] + sentences.silu(a.silu)[:4]
    chosen = {one.best.cell for one in a.advice}
    text += [sentences.data(c, a.runs.labels[c.cell]) for c in a.convergence if c.cell in chosen][:4]
    return [*text, sentences.measured(a.runs)]
