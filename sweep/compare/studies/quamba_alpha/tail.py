"""The seed on the tail: whether quantiles of magnitudes lie close together."""

from __future__ import annotations

from sweep.compare.studies.quamba_alpha.reply import FAILS, HOLDS, PARTLY, SITE, Case, Reply, Subject, unite
from sweep.compare.tables.table import Column, Table, Value

SHORT = 1.1  # clips at 99.5 % and 99.999 % within 10 %: what "approximately equal" is taken to mean
NORMAL = 4.4172 / 2.8070  # quantiles of |x| of a normal distribution at 0.99999 and 0.995


def tail(case: Case) -> Reply:
    """Whether the quantiles of the tail lie close together."""
    text, verdicts, tables = [], [], []
    for s in case.subjects:
        alphas = sorted(a for a in s.tensor.percentiles if a < 1)
        if len(alphas) < 2:
            text.append(f"{s.name}: not answered; needs percentile cells at two alphas.")
            continue
        table = _clips(case, s, alphas)
        factors = [float(row[-1]) for row in table.rows if row[-1] is not None]
        low, high = alphas[0], alphas[-1]
        if not factors:
            continue
        tables.append(table)
        verdicts.append(HOLDS if max(factors) <= SHORT else FAILS if min(factors) > SHORT else PARTLY)
        text.append(
            f"{s.name}: from {low:.5g} to {high:.5g} the clip of {SITE} (a quantile of magnitudes) grows "
            f"{min(factors):.2f} to {max(factors):.2f} times."
        )
        if low != 0.995:
            text.append("The 99.5 % quantile is not among these cells (alpha=0.995).")
    text.append(
        f"Short means at most {SHORT} times here; a normal distribution's 99.999 % quantile of magnitudes is "
        f"{NORMAL:.2f} times its 99.5 % one. The seed inferred it from scales that alpha could not change, and its "
        "0.9995 is the 99.95 % quantile."
    )
    return Reply(
        "Is the tail short?",
        "The 99.5 % quantile is about the 99.999 % one: no extreme outliers between.",
        unite(verdicts),
        " ".join(text),
        ("histogram",),
        tuple(tables),
    )


def _clips(case: Case, s: Subject, alphas: list[float]) -> Table:
    cells = [s.tensor.percentiles[a] for a in alphas]
    clips_at = {(c, layer): rest for c, layer, *rest in case.at_site("cell, layer, clip, absmax", cells)}
    rows: list[tuple[Value, ...]] = []
    for layer in sorted({layer for _, layer in clips_at}):
        clips = [clips_at.get((c, layer), (None, None))[0] for c in cells]
        first, last = clips[0], clips[-1]
        largest = clips_at.get((cells[0], layer), (None, None))[1]
        rows.append((layer, *clips, largest, last / first if first and last else None))
    return Table(
        "tail",
        f"The tail of {SITE}: {s.name}",
        f"Quantiles of magnitudes. Factor: that at {alphas[-1]:.10g} / that at {alphas[0]:.10g}.",
        (
            Column("layer", "count"),
            *(Column(f"{a:.10g}", "scale") for a in alphas),
            Column("largest", "scale"),
            Column("factor", "number"),
        ),
        tuple(rows),
    )
