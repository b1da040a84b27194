"""The table of what shapes scales have."""

from __future__ import annotations

from sweep.compare.analysis.place_errors import errors
from sweep.compare.query.comparison import Comparison
from sweep.compare.query.database import SCALES
from sweep.compare.tables.table import Table, Value, columns

AXES = (
    "ssd_group: heads that share B and C; head_group: heads with similar channel profiles; dim_group: positions "
    "inside a head. One scale per (ssd_group, head_group, dim_group): per group, not per channel."
)


def structure_table(runs: Comparison) -> Table:
    """By granularity, format and site: shape, number and spread of the scales, and the meaning of the axes."""
    query = f"""
        SELECT model, s.granularity, s.format, site, s.cell, layer, count(*) AS n, count(DISTINCT s.ssd_group) AS ssd,
               count(DISTINCT s.head_group) AS head, count(DISTINCT s.dim_group) AS dim,
               max({{'v': -scale, 'se': scale_se}}) AS low, max({{'v': scale, 'se': scale_se}}) AS high
        FROM (SELECT r.* EXCLUDE (model, granularity, format), c.model, c.granularity, c.format
              FROM {runs.source(SCALES)} r JOIN cells c USING (cell)) s
        GROUP BY ALL"""
    listed = runs.sql(
        "SELECT model, granularity, format, site, max(n), max(ssd), max(head), max(dim), "
        "-max(low).v, max(low).se, max(high).v, max(high).se, "  # of rows that tie the one that errs most
        # nothing but zeros has no spread, and would be the largest
        f"max({{'v': -high.v / low.v, 'cell': cell, 'layer': layer}}) FILTER (high.v > 0) FROM ({query}) "
        "GROUP BY ALL ORDER BY model, granularity DESC, format, site"
    )
    cells = sorted({widest["cell"] for *_, widest in listed if widest})
    spreads = errors(runs, cells, "max(scale) / min(scale)")
    rows: list[tuple[Value, ...]] = []
    for model, granularity, format, site, n, ssd, head, dim, *ends, widest in listed:
        shape = f"({', '.join(str(max(k, 1)) for k in (ssd, head, dim))})" if ssd + head + dim else "()"
        spread, of_spread = None, None
        if widest:
            spread = widest["v"]
            of_spread = spreads.get((widest["cell"], widest["layer"], site)) if n > 1 else None
        rows.append((model, granularity, format, site, shape, n, *ends, spread, of_spread))
    return Table(
        "structure",
        "What a scale's shape means",
        f"Shape is (ssd_group, head_group, dim_group); () is one scale for the tensor. {AXES} Min and max over layers "
        "and settings. Spread: largest / smallest scale within a layer, where that is largest. The error of each is of "
        "its row; which row it is, noise may decide.",
        columns(
            "model | granularity | format | site | shape | scales per layer:count | min:scale | ± min:scale | "
            "max:scale | ± max:scale | spread:number | ± spread:number"
        ),
        tuple(rows),
    )
