"""Whether measures of the same cells agree: KL, perplexity, SQNR and predicted loss."""

from __future__ import annotations

import numpy as np

from sweep.compare.analysis.agreement import AGREE, DISAGREE, TIED, Agreement
from sweep.compare.analysis.contexts import short
from sweep.compare.facts import Answer
from sweep.compare.render.numbers import nats


def measures(a: Answer) -> list[tuple[str, str]]:
    """(label, text): one line, or none where only one measure is known."""
    names = dict(zip([g.context for g in a.ranking], short([g.context for g in a.ranking]), strict=True))
    where = {c: f"{name}: " if len(names) > 1 else "" for c, name in names.items()}
    parts = [where[one.context] + agreement(a, one.perplexity, "KL") for one in a.advice if one.perplexity][:1]
    parts += [where[one.context] + agreement(a, one.agreement, "SQNR") for one in a.advice if one.agreement][:1]
    if c := a.calibration:
        rank = "" if np.isnan(c.rank) else f"; rank correlation {c.rank:.2f}, {c.cells} cells"
        parts.append(f"measured KL is {c.factor:.1f} times predicted loss ({c.low:.1f} to {c.high:.1f}{rank})")
    return [("measures", "; ".join(parts))] if parts else []


def agreement(a: Answer, g: Agreement, first: str) -> str:
    """`perplexity and KL tie: mse or minmax (0.01 ± 0.02), rank correlation 0.94`: whether two measures hold the same
    setting best, what the one loses by the other, and which pair they rank the other way round."""
    names = {row.cell: row.setting for group in a.ranking for row in group.rows}
    unit = "" if g.other == "perplexity" else " nats"
    lost = f"{nats(g.difference, signed=True)}{unit}"
    text = (
        f"{g.other} and {first} "
        + {
            AGREE: f"agree on {names[g.first]}",
            TIED: f"tie: {names[g.first]} or {names[g.best]} ({lost})",
            DISAGREE: f"disagree: {names[g.best]} or {names[g.first]} ({lost})",
        }[g.verdict]
    )
    if not np.isnan(g.rank):
        text += f", rank correlation {g.rank:.2f}"
    if g.crossed and g.crossed != (g.first, g.best):
        text += f"; they swap {names[g.crossed[0]]} and {names[g.crossed[1]]}"
    return text
