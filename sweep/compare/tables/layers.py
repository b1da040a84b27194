"""Tables of a row per layer: the seed's, generated, with the error of every number that replicates tell."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from sweep.compare.analysis.contrasts import Contrast
from sweep.compare.analysis.place_errors import difference_error, replicates, sqnr_replicates
from sweep.compare.analysis.significance import Floats, jackknife
from sweep.compare.query.comparison import Comparison
from sweep.compare.query.database import SCALES
from sweep.compare.query.labels import told_apart
from sweep.compare.tables.table import Column, Table, Value, columns

METRICS = {
    "scale": "scale", "scale_se": "scale", "clip": "scale", "sqnr_db": "db", "mse": "scale",
    "clip_fraction": "share", "code_entropy_bits": "number", "absmax": "scale", "min": "scale", "max": "scale",
    "ratio": "number", "silu_gain": "number", "weight_scale": "scale",
}  # fmt: skip
FOLDED = ("scale", "sqnr_db", "ratio", "silu_gain")  # of which replicates tell the error

Place = tuple[int, int]  # cell, layer


def _of_site(
    runs: Comparison, cells: Collection[int], metric: str, site: str
) -> tuple[dict[Place, float], dict[Place, Floats]]:
    """A metric at one site, groups averaged, or pooled for SQNR, and what it is without one fold, [K]."""
    numbers = sorted(cells)
    pooled = metric == "sqnr_db"
    source = "points" if pooled or metric == "scale" else runs.source(SCALES, numbers)
    query = (
        f'SELECT cell, layer, avg("{metric}") FROM {source} WHERE site = ? AND cell IN '
        f"({', '.join(map(str, numbers))}) GROUP BY ALL"
    )
    values = {(cell, layer): value for cell, layer, value in runs.sql(query, [site], numbers)}
    if metric not in FOLDED:
        return values, {}
    folds = sqnr_replicates(runs, numbers) if pooled else replicates(runs, numbers, f"avg({metric})")
    return values, {(cell, layer): each for (cell, layer, at), each in folds.items() if at == site}


def _error(folds: Mapping[Place, Floats], place: Place) -> float | None:
    return float(jackknife(folds[place])) if place in folds else None


def _change(
    values: Mapping[Place, float | None], folds: Mapping[Place, Floats], place: Place, base: Place, paired: bool
) -> tuple[Value, Value]:
    """By how much a value exceeds that of `base`, relative to it, with its standard error."""
    here, reference = values.get(place), values.get(base)
    if here is None or not reference:
        return None, None
    change = here / reference - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        of_base, of_here = (np.log(folds[at]) if at in folds else None for at in (base, place))
    error = difference_error(of_base, of_here, paired)
    return change, None if error is None or not np.isfinite(error) else error * abs(1 + change)


def alpha_table(runs: Comparison, contrast: Contrast, site: str) -> Table:
    """Scale by layer and value of the knob, and its relative difference to the baseline's, with their errors."""
    base = contrast.cells[contrast.baseline]
    others = [c for c in contrast.cells if c != base]
    at, folds = _of_site(runs, contrast.cells, "scale", site)
    same = {c: runs.listed[c].key == runs.listed[base].key for c in others}
    rows: list[tuple[Value, ...]] = []
    for layer in sorted({layer for _, layer in at}):
        scales = [value for c in contrast.cells for value in (at.get((c, layer)), _error(folds, (c, layer)))]
        changes = [v for c in others for v in _change(at, folds, (c, layer), (base, layer), same[c])]
        rows.append((layer, *scales, *changes))
    return Table(
        f"{contrast.knob}",
        f"Scale by layer and {contrast.knob}: {site}, {contrast.context}",
        f"Δ: relative difference to {contrast.knob} {contrast.values[contrast.baseline]}. "
        "Whether a difference is more than noise, and whether it matters, is in the verdicts.",
        (
            Column("layer", "count"),
            *(Column(name, "scale") for v in contrast.values for name in (v, f"± {v}")),
            *(
                column
                for name in map(contrast.value, others)
                for column in (Column(f"Δ {name}", "change"), Column(f"± Δ {name}", "error"))
            ),
        ),
        tuple(rows),
    )


RATIOS = {"ratio": "ratio", "SiLU gain": "silu_gain"}  # heading and column


def ratio_table(runs: Comparison, cells: Sequence[int]) -> Table:
    """By layer and cell: activation/weight ratio and SiLU gain of x, beside each other."""
    known = [(what, _of_site(runs, cells, metric, "x_conv_out")) for what, metric in RATIOS.items()]
    heads = [f"{what} {runs.labels[n] if len(cells) > 1 else ''}".strip() for what in RATIOS for n in cells]
    rows = []
    for layer in sorted({layer for _, (at, _) in known for _, layer in at}):
        pairs = [(at.get((n, layer)), _error(folds, (n, layer))) for _, (at, folds) in known for n in cells]
        rows.append((layer, *(value for pair in pairs for value in pair)))
    return Table(
        "ratio",
        "Ratio and SiLU gain by model and layer: x_conv_out",
        "ratio = mean activation scale after SiLU / scale of the conv1d weight slice of x: two quantities in "
        "different units. It says nothing about SiLU. SiLU gain = scale after / before SiLU: what SiLU does to "
        "the range, never above 1 for a quantile.",
        (Column("layer", "count"), *(Column(name, "number") for head in heads for name in (head, f"± {head}"))),
        tuple(rows),
    )


def minmax_table(runs: Comparison, minmax: int, percentile: int, site: str) -> Table:
    """By layer: scale, SQNR and clipping of MinMax against a percentile."""
    pair = (minmax, percentile)
    scale, scale_folds = _of_site(runs, pair, "scale", site)
    sqnr, sqnr_folds = _of_site(runs, pair, "sqnr_db", site)
    clipped, _ = _of_site(runs, [percentile], "clip_fraction", site)
    paired = runs.listed[minmax].key == runs.listed[percentile].key
    cell = runs.listed[percentile]
    name, told = cell.setting, told_apart(runs.listed)[percentile]
    context = " · ".join(filter(None, (cell.model, told, cell.format, cell.granularity)))
    rows = []
    for layer in sorted({layer for cell, layer in scale if cell == minmax and (percentile, layer) in scale}):
        places = [(n, layer) for n in pair]
        (q0, q1), (k0, k1) = [sqnr.get(p) for p in places], [sqnr_folds.get(p) for p in places]
        rows.append(
            (
                layer,
                *(v for place in places for v in (scale[place], _error(scale_folds, place))),
                *_change(scale, scale_folds, places[0], places[1], paired),
                *(v for place in places for v in (sqnr.get(place), _error(sqnr_folds, place))),
                *((None, None) if q0 is None or q1 is None else (q1 - q0, difference_error(k0, k1, paired))),
                clipped.get(places[1]),
            )
        )
    return Table(
        "minmax",
        f"MinMax against {name}: {site}, {context}",
        f"Larger: by how much MinMax's scale exceeds {name}'s. Gain: SQNR of {name} less that of MinMax. "
        "MinMax never clips; what it loses is resolution for everything that is not extreme.",
        columns(
            f"layer:count | MinMax scale:scale | ± MinMax scale:scale | {name} scale:scale | ± {name} scale:scale | "
            f"larger:change | ± larger:error | MinMax dB:db | ± MinMax dB:db | {name} dB:db | ± {name} dB:db | "
            "gain dB:gain | ± gain dB:db | clipped:share"
        ),
        tuple(rows),
    )


def layer_table(runs: Comparison, metric: str, site: str, cells: Sequence[int]) -> Table:
    """A column of scales.parquet, one of METRICS, by layer and cell."""
    at, folds = _of_site(runs, cells, metric, site)
    rows = []
    for layer in sorted({layer for _, layer in at}):
        rows.append((layer, *(v for c in cells for v in (at.get((c, layer)), _error(folds, (c, layer))))))
    heads = [name for c in cells for name in (runs.labels[c], f"± {runs.labels[c]}")]
    return Table(
        "layers",
        f"{metric} by layer and cell: {site}",
        f"Groups of a layer are {'pooled' if metric == 'sqnr_db' else 'averaged'}."
        + ("" if metric in FOLDED else " Replicates tell no error of this column."),
        (Column("layer", "count"), *(Column(head, METRICS[metric]) for head in heads)),
        tuple(rows),
    )
