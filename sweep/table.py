"""From statistics and one cell of the grid to the tables that the cell writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sweep import formats, metrics, scales
from sweep.config import Config
from sweep.histogram import Histogram
from sweep.scales import Method
from sweep.statistics import SiteStatistics, Statistics

Floats = NDArray[np.float64]

WEIGHT_LEVELS = 127  # weights are int8 symmetric: weight_scale = max |w| / 127, as Quamba's wx_scale

_PLACE = [
    ("layer", pa.int32()),
    ("site", pa.string()),
    ("ssd_group", pa.int32()),
    ("head_group", pa.int32()),
    ("dim_group", pa.int32()),
]
_REALS = ["min", "max", "absmax", "clip", "scale", "scale_se", "clip_low"]
_COSTS = ["clip_fraction", "mse", "sqnr_db", "code_entropy_bits", "weight_scale", "ratio", "silu_gain"]
SCALES = pa.schema(
    [
        ("model", pa.string()),
        ("method", pa.string()),
        ("alpha", pa.float64()),
        ("format", pa.string()),
        ("granularity", pa.string()),
        *_PLACE,
        ("n", pa.int64()),
        *[(name, pa.float64()) for name in _REALS],
        ("zero_point", pa.int32()),
        *[(name, pa.float64()) for name in _COSTS],
    ]
)
REPLICATES = pa.schema(
    [
        *_PLACE,
        ("fold", pa.int32()),
        *[(name, pa.float64()) for name in ("scale", "sqnr_db", "silu_gain", "ratio")],
    ]
)
CONVERGENCE = pa.schema(
    [
        ("layer", pa.int32()),
        ("site", pa.string()),
        ("folds", pa.int32()),
        ("samples", pa.int64()),
        ("n", pa.int64()),
        ("scale", pa.float64()),
        ("scale_se", pa.float64()),
    ]
)
HISTOGRAMS = pa.schema(
    [
        ("layer", pa.int32()),
        ("site", pa.string()),
        ("edges", pa.list_(pa.float64())),
        ("counts", pa.list_(pa.int64())),
    ]
)


@dataclass(frozen=True, eq=False)
class Tables:
    """What a cell writes, each one as `<field>.parquet`.

    scales: a row per layer and site. replicates: the same numbers with one fold left out, a row per fold, for
    errors of differences between cells. convergence: a row per layer, site and number of folds used.
    histograms: 512 signed logarithmic bins of the values before and after SiLU, for pictures."""

    scales: pa.Table
    replicates: pa.Table
    convergence: pa.Table
    histograms: pa.Table


def build(statistics: Statistics, config: Config) -> Tables:
    """All tables of one cell."""
    cell = {
        "model": config.model.name,
        "method": config.method,
        "alpha": config.effective_alpha,
        "format": config.format,
        "granularity": config.granularity,
    }
    method, alpha, format = Method(config.method), config.effective_alpha, formats.named(config.format)
    rows: list[dict[str, Any]] = []
    replicates: list[dict[str, Any]] = []
    convergence: list[dict[str, Any]] = []
    parts = {key: _jackknifed(site.histogram) for key, site in statistics.sites.items()}
    found = {key: scales.clip(part, method, alpha, format) for key, part in parts.items()}
    for (layer, name), site in statistics.sites.items():
        place = {"layer": layer, "site": name}
        part, clips = parts[layer, name], found[layer, name]
        quantizer = format.place(float(clips.low[0]), float(clips.high[0]))
        cost = metrics.measure(part, quantizer)
        scale = clips.scale
        gain, ratio = np.full((2, len(scale)), np.nan)
        row: dict[str, Any] = {
            **cell,
            **place,
            "n": int(part.n[0]),
            "min": float(part.min[0]),
            "max": float(part.max[0]),
            "absmax": float(part.absmax[0]),
            "clip": quantizer.high,
            "scale": quantizer.scale,
            "scale_se": scales.jackknife_error(scale[1:]),
            **{key: float(value[0]) for key, value in vars(cost).items()},
        }
        if not format.symmetric:
            row |= {"clip_low": quantizer.low, "zero_point": quantizer.zero_point}
        if site.weight_absmax is not None:  # a …_conv_out site
            row["weight_scale"] = weight_scale = site.weight_absmax / WEIGHT_LEVELS
            gain = _divide(scale, found[layer, name.replace("_out", "_pre")].scale)
            ratio = _divide(scale, np.full_like(scale, weight_scale))
            row |= {"silu_gain": float(gain[0]), "ratio": float(ratio[0])}
        rows.append(row)
        for fold, number in enumerate(site.folds, start=1):
            replicates.append(
                {
                    **place,
                    "fold": int(number),
                    "scale": float(scale[fold]),
                    "sqnr_db": float(cost.sqnr_db[fold]),
                    "silu_gain": float(gain[fold]),
                    "ratio": float(ratio[fold]),
                }
            )
        convergence += _convergence(place, site, method, alpha, format, row["scale_se"])
    return Tables(
        _table(rows, SCALES),
        _table(replicates, REPLICATES),
        _table(convergence, CONVERGENCE),
        _table(list(_coarse(statistics)), HISTOGRAMS),
    )


def _jackknifed(folds: Histogram) -> Histogram:
    """A stack of all folds together and of all but the first, all but the second, …"""
    count = len(folds.counts)
    return folds.pick(np.concatenate([np.ones((1, count), bool), ~np.eye(count, dtype=bool)]))


def _convergence(
    place: dict[str, Any],
    site: SiteStatistics,
    method: Method,
    alpha: float | None,
    format: formats.Format,
    final: float,
) -> list[dict[str, Any]]:
    """The scale from the first 1, 2, … K folds, its error from those folds alone; `final` is the one of all K.

    Searched methods have no error for fewer than all folds: each would take as many searches as there are folds."""
    count = len(site.folds)
    rows = []
    upto = np.tri(count, dtype=bool)
    first = site.histogram.pick(upto)
    found = scales.clip(first, method, alpha, format).scale
    for k in range(1, count + 1):
        error = float("nan")
        if k == count:
            error = final
        elif k > 1 and not method.searches:
            rest = site.histogram.pick(upto[k - 1] & ~np.eye(count, dtype=bool)[:k])
            error = scales.jackknife_error(scales.clip(rest, method, alpha, format).scale)
        rows.append(
            {
                **place,
                "folds": k,
                "samples": int(site.samples[:k].sum()),
                "n": int(first.n[k - 1]),
                "scale": float(found[k - 1]),
                "scale_se": error,
            }
        )
    return rows


def _coarse(statistics: Statistics) -> Any:
    """512 signed bins an eighth of an octave wide over [2^-18, 2^14): W&B takes no more."""
    magnitudes = np.exp2(np.arange(257) / 8 - 18)
    edges = np.concatenate([-magnitudes[:0:-1], [0.0], magnitudes[1:]])  # 513
    for (layer, name), site in statistics.sites.items():
        if name in ("x_conv_pre", "x_conv_out"):
            total = site.histogram.total()
            inside = np.clip(total.values, edges[0], np.nextafter(edges[-1], 0))
            counts = np.bincount(np.searchsorted(edges, inside, side="right") - 1, weights=total.counts, minlength=512)
            yield {"layer": layer, "site": name, "edges": edges, "counts": counts.astype(np.int64)}


def _divide(a: Floats, b: Floats) -> Floats:
    """a / b, NaN where b is 0."""
    return np.divide(a, b, out=np.full_like(a, np.nan), where=b != 0)


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """NaN, which stands for undefined here, becomes null."""
    return pa.Table.from_pydict(
        {f.name: pa.array([row.get(f.name) for row in rows], f.type, from_pandas=True) for f in schema},
        schema,
    )
