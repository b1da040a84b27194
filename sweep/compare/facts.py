"""The answer: all results of the analysis of a comparison's cells."""

from __future__ import annotations

from dataclasses import dataclass

from sweep.compare.analysis.advice import Advice
from sweep.compare.analysis.agreement import Calibration
from sweep.compare.analysis.convergence import Convergence
from sweep.compare.analysis.cost import Costs
from sweep.compare.analysis.ranking import Group
from sweep.compare.analysis.silu_gain import Silu
from sweep.compare.analysis.verdicts import Verdict
from sweep.compare.query.comparison import Comparison
from sweep.compare.studies.quamba_alpha.reply import Reply


@dataclass(frozen=True, eq=False)
class Answer:
    """shown: numbers of the cells that per-cell tables and charts show; all of them unless there are many.
    ranking: every setting, best first, by context. calibration: predicted against measured cost, where both are known.
    seed: answers to the questions of the study this project grew from, where the cells are such a study."""

    runs: Comparison
    site: str
    metric: str
    shown: list[int]
    verdicts: list[Verdict]
    costs: Costs
    advice: list[Advice]
    ranking: list[Group]
    calibration: Calibration | None
    silu: list[Silu]
    convergence: list[Convergence]
    notes: list[str]
    seed: list[Reply]
