"""The seed's tables, generated: scale by layer and alpha, ratio by model and layer, MinMax against
percentile, and the shapes of scales."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sweep.compare.analysis.contrasts import Contrast
from sweep.compare.query.comparison import Comparison
from sweep.compare.query.database import SCALES
from sweep.compare.tables.table import Column, Table, Value, columns

METRICS = {
    "scale": "scale", "scale_se": "scale", "clip": "scale", "sqnr_db": "db", "mse": "scale",
    "clip_fraction": "share", "code_entropy_bits": "number", "absmax": "scale", "min": "scale", "max": "scale",
    "ratio": "number", "silu_gain": "number", "weight_scale": "scale",
}  # fmt: skip
ERROR = "sqrt(avg(scale_se ** 2))"  # of a layer's scale; of its groups the usual one
AXES = (
    "ssd_group: heads that share B and C; head_group: heads with similar channel profiles; dim_group: positions "
    "inside a head. One scale per (ssd_group, head_group, dim_group): per group, not per channel."
)


def main_site(runs: Comparison) -> str:
    """The site that tables show unless one was asked for: x after SiLU, where Quamba's alpha acts."""
    return "x_conv_out" if "x_conv_out" in runs.sites else runs.sites[0]


def alpha_table(runs: Comparison, contrast: Contrast, site: str) -> Table:
    """Scale by layer and value of the knob with its error, and its relative difference to the baseline's."""
    base = contrast.cells[contrast.baseline]
    others = [c for c in contrast.cells if c != base]
    points = runs.sql("SELECT cell, layer, scale FROM points WHERE site = ?", [site], contrast.cells)
    at = {(c, layer): scale for c, layer, scale in points}
    query = f"SELECT cell, layer, {ERROR} FROM {runs.source(SCALES, contrast.cells)} WHERE site = ? GROUP BY ALL"
    errors = {(c, layer): se for c, layer, se in runs.sql(query, [site])}
    rows: list[tuple[Value, ...]] = []
    for layer in sorted({layer for c, layer in at if c in contrast.cells}):
        scales = [value for c in contrast.cells for value in (at.get((c, layer)), errors.get((c, layer)))]
        reference = at.get((base, layer))
        changes = [
            None if not reference or (here := at.get((c, layer))) is None else here / reference - 1 for c in others
        ]
        rows.append((layer, *scales, *changes))
    return Table(
        f"{contrast.knob}",
        f"Scale by layer and {contrast.knob}: {site}, {contrast.context}",
        f"Δ: relative difference to {contrast.knob} {contrast.values[contrast.baseline]}. "
        "Whether a difference is more than noise, and whether it matters, is in the verdicts.",
        (
            Column("layer", "count"),
            *(Column(name, "scale") for v in contrast.values for name in (v, f"± {v}")),
            *(Column(f"Δ {contrast.value(c)}", "change") for c in others),
        ),
        tuple(rows),
    )


def ratio_table(runs: Comparison, cells: Sequence[int]) -> Table:
    """By layer and cell: activation/weight ratio and SiLU gain of x, beside each other."""
    numbers = list(cells)
    means = runs.sql(
        f"SELECT cell, layer, avg(ratio), avg(silu_gain) FROM {runs.source(SCALES, numbers)} "
        "WHERE site = 'x_conv_out' GROUP BY cell, layer"
    )
    at = {(cell, layer): (ratio, gain) for cell, layer, ratio, gain in means}
    layers = sorted({layer for _, layer in at})
    return Table(
        "ratio",
        "Ratio and SiLU gain by model and layer: x_conv_out",
        "ratio = mean activation scale after SiLU / scale of the conv1d weight slice of x: two quantities in "
        "different units. It says nothing about SiLU. SiLU gain = scale after / before SiLU: what SiLU does to "
        "the range, never above 1 for a quantile.",
        (
            Column("layer", "count"),
            *(
                Column(f"{what} {runs.labels[n] if len(numbers) > 1 else ''}".strip(), "number")
                for what in ("ratio", "SiLU gain")
                for n in numbers
            ),
        ),
        tuple((layer, *(at.get((n, layer), (None, None))[i] for i in (0, 1) for n in numbers)) for layer in layers),
    )


def minmax_table(runs: Comparison, minmax: int, percentile: int, site: str) -> Table:
    """By layer: scale, SQNR and clipping of MinMax against a percentile."""
    query = "SELECT cell, layer, avg(scale), {}, avg(sqnr_db), avg(clip_fraction) FROM {} WHERE site = ? GROUP BY ALL"
    source = runs.source(SCALES, [minmax, percentile])
    at = {(cell, layer): rest for cell, layer, *rest in runs.sql(query.format(ERROR, source), [site])}
    cell = runs.listed[percentile]
    name, context = cell.setting, f"{cell.model} · {cell.format} · {cell.granularity}"
    rows = []
    for layer in sorted({layer for cell, layer in at if cell == minmax and (percentile, layer) in at}):
        (s0, e0, q0, _), (s1, e1, q1, clipped) = at[minmax, layer], at[percentile, layer]
        rows.append(
            (layer, s0, e0, s1, e1, s0 / s1 - 1 if s1 else None, q0, q1, None if None in (q0, q1) else q1 - q0, clipped)
        )
    return Table(
        "minmax",
        f"MinMax against {name}: {site}, {context}",
        f"Larger: by how much MinMax's scale exceeds {name}'s. Gain: SQNR of {name} less that of MinMax. "
        "MinMax never clips; what it loses is resolution for everything that is not extreme.",
        columns(
            f"layer:count | MinMax scale:scale | ± MinMax:scale | {name} scale:scale | "
            f"± {name}:scale | larger:change | MinMax dB:db | "
            f"{name} dB:db | gain dB:gain | clipped:share"
        ),
        tuple(rows),
    )


def structure_table(runs: Comparison) -> Table:
    """By granularity and site: shape, number and spread of the scales, and the meaning of the axes."""
    query = """
        SELECT model, s.granularity, site, s.cell, layer, count(*) AS n, count(DISTINCT s.ssd_group) AS ssd,
               count(DISTINCT s.head_group) AS head, count(DISTINCT s.dim_group) AS dim,
               min(scale) AS low, avg(scale) AS mean, max(scale) AS high
        FROM (SELECT r.*, c.model, c.granularity FROM rows r JOIN cells c USING (cell)) s
        GROUP BY model, s.granularity, site, s.cell, layer"""
    rows = []
    for model, granularity, site, n, ssd, head, dim, low, mean, high, spread in runs.sql(
        f"SELECT model, granularity, site, max(n), max(ssd), max(head), max(dim), min(low), avg(mean), max(high), "
        f"max(high / low) FROM ({query}) GROUP BY ALL ORDER BY model, granularity DESC, site"
    ):
        shape = f"({', '.join(str(max(k, 1)) for k in (ssd, head, dim))})" if ssd + head + dim else "()"
        rows.append((model, granularity, site, shape, n, low, mean, high, spread))
    return Table(
        "structure",
        "What a scale's shape means",
        f"Shape is (ssd_group, head_group, dim_group); () is one scale for the tensor. {AXES} Spread: largest / "
        "smallest scale within a layer.",
        columns(
            "model | granularity | site | shape | scales per layer:count | min:scale | mean:scale | max:scale | "
            "spread:number"
        ),
        tuple(rows),
    )


def layer_table(runs: Comparison, metric: str, site: str, cells: Sequence[int]) -> Table:
    """A column of scales.parquet, one of METRICS, by layer and cell; groups averaged."""
    source = runs.source(SCALES, list(cells))
    values = runs.sql(f'SELECT cell, layer, avg("{metric}") FROM {source} WHERE site = ? GROUP BY ALL', [site])
    at = {(cell, layer): value for cell, layer, value in values}
    return Table(
        "layers",
        f"{metric} by layer and cell: {site}",
        "Groups of a layer are averaged.",
        (Column("layer", "count"), *(Column(runs.labels[c], METRICS[metric]) for c in cells)),
        tuple((layer, *(at.get((c, layer)) for c in cells)) for layer in sorted({layer for _, layer in at})),
    )


def pick(indices: Sequence[int], most: int) -> list[int]:
    """At most `most` of them, evenly spread, first and last among them."""
    if len(indices) <= most:
        return list(indices)
    return [indices[i] for i in np.linspace(0, len(indices) - 1, most).astype(int)]


def one_per_model(runs: Comparison) -> list[int]:
    """The cell of every model nearest to the common default: percentile 0.9995, one scale per tensor."""
    best: dict[str, tuple[tuple[bool, bool, float], int]] = {}
    for n, c in enumerate(runs.listed):
        key = (c.granularity != "tensor", c.method != "percentile", abs((c.alpha or 2.0) - 0.9995))
        if c.model not in best or key < best[c.model][0]:
            best[c.model] = (key, n)
    return [n for _, n in best.values()]
