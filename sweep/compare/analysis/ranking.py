"""Every setting of a comparison, best first, with all that is known of what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sweep.compare.analysis.advice import Advice
from sweep.compare.analysis.board import SAME_DB
from sweep.compare.analysis.contexts import contexts
from sweep.compare.analysis.cost import Costs, Estimate, ask
from sweep.compare.analysis.mean_sqnr import known_sqnr, mean_sqnr
from sweep.compare.query.comparison import Comparison
from sweep.compare.query.database import SCALES

BEST, AS_GOOD, UNRANKED = "best", "tied", "not ranked"
MOST = 250  # cells of which errors are looked up, and what no record has, the best of every group first
MANY = 50  # the same for errors where there are so many cells that not all are opened


@dataclass(frozen=True)
class Row:
    """One cell. measured, predicted: nats per token. more: cost above the best one's, nats or None. sqnr: mean dB, and
    its standard error sqnr_se, None where replicates do not tell it or were not looked up; lost: dB below the best
    one's, with its error. clipped: share of all values at quantized sites.
    rise: of perplexity, above the unquantized network's. verdict: BEST, AS_GOOD within error or what
    matters, UNRANKED where the ranking measure is unknown, or empty."""

    setting: str
    cell: int
    measured: Estimate | None
    predicted: Estimate | None
    more: Estimate | None
    sqnr: float | None
    lost: Estimate | None
    clipped: float | None
    perplexity: Estimate | None
    rise: Estimate | None
    verdict: str
    sqnr_se: float | None = None


@dataclass(frozen=True)
class Group:
    """Cells that are ranked against one another, by `kind`; see `contexts`."""

    context: str
    kind: str
    rows: tuple[Row, ...]


def ranking(runs: Comparison, costs: Costs, advice: Sequence[Advice]) -> list[Group]:
    """A group per context, those with advice first; others, cells that stand alone among them, are in the order of
    their costs, of which no error is asked for."""
    by_context = {one.context: one for one in advice}
    every = contexts(runs)
    means = known_sqnr(runs)

    def row(name: str, n: int, verdict: str, sqnr: float | None, more: Estimate | None, lost: Estimate | None) -> Row:
        e = runs.listed[n].evaluation or {}
        return Row(
            name,
            n,
            costs.measured.get(n),
            costs.predicted.get(n),
            more,
            sqnr,
            lost,
            None,
            _known(e, "perplexity"),
            _known(e, "delta_perplexity"),
            verdict,
        )

    ranked, alone = [], []
    for context in every:
        if (one := by_context.get(context.text)) is None:
            kind, known = costs.ranked(context.cells)
            values = costs.values(kind)
            if values:
                cost = {n: values[n].value for n in known}
            else:
                cost = {n: -round(means[n], SAME_DB) for n in context.cells if n in means}
            order = sorted(zip(context.cells, context.names, strict=True), key=lambda c: cost.get(c[0], math.inf))
            several = sum(n in cost for n in context.cells) > 1
            rows = [
                row(
                    name,
                    n,
                    BEST if several and n == order[0][0] else "" if n in cost else UNRANKED,
                    means.get(n),
                    None,
                    None,
                )
                for n, name in order
            ]
            alone.append(Group(context.text, kind, tuple(rows)))
            continue
        rows = [
            row(
                r.setting,
                r.cell,
                BEST if place == 0 else AS_GOOD if r.tied else "",
                r.sqnr_db if r.cell in means else None,
                r.more,
                Estimate(r.loss_db, r.loss_se) if place and {r.cell, one.best.cell} <= means.keys() else None,
            )
            for place, r in enumerate(one.runners)
        ]
        names = dict(zip(context.cells, context.names, strict=True))
        there = {r.cell for r in rows}
        rows += [row(name, n, UNRANKED, means.get(n), None, None) for n, name in names.items() if n not in there]
        ranked.append(Group(one.context, one.kind, tuple(rows)))
    return _looked_up(runs, [*ranked, *alone])


def _known(evaluation: dict[str, Any], name: str) -> Estimate | None:
    if (value := evaluation.get(name)) is None:
        return None
    error = evaluation.get(f"{name}_se")
    return Estimate(float(value), float("nan") if error is None else float(error))


def _looked_up(runs: Comparison, groups: list[Group]) -> list[Group]:
    """The groups with the errors of SQNR and the share of clipped values: as run.json says, else looked up."""
    best = [cell for _, cell in sorted((rank, row.cell) for group in groups for rank, row in enumerate(group.rows))]
    means = mean_sqnr(runs, best[: MANY if runs.unopened else MOST])
    errors = {n: mean.se for n, mean in means.items() if math.isfinite(mean.se)}
    clipped: dict[int, float | None] = {}
    if not (runs.filters.site or runs.filters.layer):
        clipped = {n: cell.totals.clip_fraction for n, cell in enumerate(runs.listed) if cell.totals}
    others = [cell for cell in best if cell not in clipped]
    share = "sum(clip_fraction * n) / sum(n) FILTER (clip_fraction IS NOT NULL)"
    clipped |= dict(ask(runs, SCALES, others[:MOST], f"SELECT cell, {share} FROM {{}} GROUP BY cell"))

    def more(row: Row) -> Row:
        known = row.sqnr is not None
        return replace(row, clipped=clipped.get(row.cell), sqnr_se=errors.get(row.cell) if known else None)

    return [replace(group, rows=tuple(map(more, group.rows))) for group in groups]
