"""Asks every question that the cells can answer, once, for every output to show."""

from __future__ import annotations

from pathlib import Path

from sweep.compare.analysis.agreement import calibration
from sweep.compare.analysis.contrasts import repeats
from sweep.compare.analysis.convergence import convergence
from sweep.compare.analysis.cost import Costs
from sweep.compare.analysis.differences import agree, digests
from sweep.compare.analysis.ranking import ranking
from sweep.compare.analysis.recommend import recommend
from sweep.compare.analysis.silu_gain import silu
from sweep.compare.analysis.verdicts import verdicts
from sweep.compare.facts import Answer
from sweep.compare.query.comparison import Comparison
from sweep.compare.render import conclusions, sentences
from sweep.compare.studies.quamba_alpha import replies
from sweep.compare.studies.quamba_alpha.reply import HIGH, MODERATE
from sweep.compare.tables.chosen import main_site, one_per_model, pick
from sweep.compare.tables.layers import METRICS
from sweep.core.errors import allowed

__all__ = ["Answer", "answer", "headlines"]

SHOWN = 24  # cells that tables by cell and charts show
FEW = 500  # cells up to which every table is made


def answer(runs: Comparison, baseline: str | None = None, metric: str = "scale", explain: bool = False) -> Answer:
    """Ask every question the cells can answer. Raises UsageError for an unknown baseline or metric.

    explain: answer the study's questions even where the cells are of several sweeps."""
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
    again = repeats(runs.listed)
    differing = [group for group in again if len({prints[n] for n in group}) > 1 and not agree(runs, group)]
    notes += [f"{len(g)} runs of {runs.listed[g[0]].name} do not agree bit for bit" for g in differing]
    if same := len(again) - len(differing):
        notes.append(
            f"{same} cell{'s were' if same > 1 else ' was'} run more than once and agree{'s' * (same == 1)} bit for bit"
        )
    costs = Costs.of(runs)
    advice, gains = recommend(runs, prints, costs), silu(runs, few)
    notes += [text for text in sentences.silu(gains) if "inconsistent" in text]
    studied = few is everything and (explain or _one_study(runs))
    answered = Answer(
        runs,
        main_site(runs),
        metric,
        shown,
        verdicts(runs, baseline, prints, costs),
        costs,
        advice,
        ranking(runs, costs, advice),
        calibration(costs),
        gains,
        convergence(runs, shown),
        notes,
        replies(runs, advice, gains, one_per_model(runs), prints) if studied else [],
    )
    # of many cells damage shows only once their rows are read: what was said of such a cell is said without it
    return answer(runs.sound(), baseline, metric, explain) if runs.damaged else answered


def _one_study(runs: Comparison) -> bool:
    """Whether every sweep has what the study compares: its questions say nothing of others beside it."""
    sweeps: dict[Path, set[float | None]] = {}
    for cell in runs.listed:
        sweeps.setdefault(cell.path.parent, set()).add(cell.alpha)
    return all(alphas >= {MODERATE, HIGH} for alphas in sweeps.values())


def headlines(a: Answer) -> list[str]:
    """The answer in at most eight sentences: what to take and how, which knobs matter, what is unmeasured."""
    return conclusions.spoken(a)
