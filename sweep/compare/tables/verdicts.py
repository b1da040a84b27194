"""The table of verdicts."""

from __future__ import annotations

import math

from sweep.compare.analysis.cost import SQNR, Estimate
from sweep.compare.answer import Answer
from sweep.compare.tables.table import Table, Value, with_error


def verdict_table(a: Answer) -> Table:
    rows: list[tuple[Value, ...]] = []
    for v in a.verdicts:
        base = v.contrast.values[v.contrast.baseline]
        known = {v.contrast.value(e.other): e.overall for e in v.evidence if not math.isnan(e.overall[0])}
        more = {n.value: n.more for n in v.nats}
        every = [base, *(more or known)] if more or known else []
        best = min(every, key=lambda x: _rank(x, more, known), default=None)
        worst = max(every, key=lambda x: _rank(x, more, known), default=None)
        rows.append(
            (
                v.contrast.knob,
                v.contrast.context,
                v.verdict,
                v.kind if v.nats or not v.evidence else SQNR,
                ", ".join(v.unknown) if v.nats else None,
                base,
                best,
                *with_error(more.get(best or "")),
                *known.get(best or "", (None, None)),
                worst,
                *with_error(more.get(worst or "")),
                *known.get(worst or "", (None, None)),
                v.row.db if v.row else None,
                v.row.db_se if v.row else None,
                f"layer {v.row.layer} {v.row.site}" if v.row else None,
                v.row.value if v.row else None,
                v.row.p if v.row else None,
                v.counted,
                v.places,
                v.tests,
                "paired" if v.paired else "independent" if v.evidence else None,
                v.folds or None,
            )
        )
    return Table.of(
        "verdicts",
        "Verdicts",
        "Best and worst are taken among all values, the baseline included, by cost where it is known, else by SQNR. "
        "Not judged: values whose cost is unknown though that of others is known. "
        "Nats: per token more than the baseline. Mean dB: SQNR against the baseline, averaged over layers and "
        "quantized sites. Largest: the largest difference at one layer and site, p corrected for all tests of the "
        "report.",
        "knob | context | verdict | judged by | not judged | baseline | best | best nats:nats | ± best nats:nats | "
        "best dB:gain | ± best dB:db | worst | worst nats:nats | ± worst nats:nats | worst dB:gain | ± worst dB:db | "
        "largest dB:gain | ± largest:db | where | with | p:p | places that matter:count | places:count | "
        "tests:count | errors | folds:count",
        rows,
    )


def _rank(value: str, more: dict[str, Estimate], known: dict[str, tuple[float, float]]) -> float:
    """The smaller the better; the baseline, of which neither is known, is 0."""
    if more:
        return more[value].value if value in more else 0.0
    return -known[value][0] if value in known else 0.0
