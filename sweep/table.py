"""From statistics and one cell of the grid to the tables that the cell writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sweep import formats, metrics, scales
from sweep.config import Config
from sweep.histogram import Histogram
from sweep.scales import Method
from sweep.statistics import Statistics

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
    for (layer, name), site in statistics.sites.items():
        place = {"layer": layer, "site": name}
        total, rest = site.histogram.total(), site.histogram.leave_one_out()
        clip = float(scales.clip(total, method, alpha, format))
        scale = clip / format.largest
        cost = metrics.measure(total, format, scale)
        left_out = scales.scale(rest, method, alpha, format)
        row: dict[str, Any] = {
            **cell,
            **place,
            "n": int(total.n),
            "min": float(total.min),
            "max": float(total.max),
            "absmax": float(total.absmax),
            "clip": clip,
            "scale": scale,
            "scale_se": scales.jackknife_error(left_out),
            **{key: float(getattr(cost, key)) for key in ("clip_fraction", "mse", "sqnr_db", "code_entropy_bits")},
        }
        gain, ratio = np.full_like(left_out, np.nan), np.full_like(left_out, np.nan)
        if site.weight_absmax is not None:  # a …_conv_out site
            row["weight_scale"] = weight_scale = site.weight_absmax / WEIGHT_LEVELS
            before = statistics.sites[layer, name.replace("_out", "_pre")].histogram
            row["silu_gain"] = _divide(scale, float(scales.scale(before.total(), method, alpha, format)))
            row["ratio"] = _divide(scale, weight_scale)
            gain = np.divide(left_out, scales.scale(before.leave_one_out(), method, alpha, format))
            ratio = np.divide(left_out, weight_scale)
        rows.append(row)
        sqnr = metrics.measure(rest, format, scale).sqnr_db
        for fold, number in enumerate(site.folds):
            replicates.append(
                {
                    **place,
                    "fold": int(number),
                    "scale": float(left_out[fold]),
                    "sqnr_db": float(sqnr[fold]),
                    "silu_gain": float(gain[fold]),
                    "ratio": float(ratio[fold]),
                }
            )
        convergence += _convergence(place, site.samples, site.histogram, method, alpha, format)
    return Tables(
        _table(rows, SCALES),
        _table(replicates, REPLICATES),
        _table(convergence, CONVERGENCE),
        _table(list(_coarse(statistics)), HISTOGRAMS),
    )


def _convergence(
    place: dict[str, Any],
    samples: Any,
    folds: Histogram,
    method: Method,
    alpha: float | None,
    format: formats.Format,
) -> list[dict[str, Any]]:
    """The scale from the first 1, 2, … K folds; its error from those folds alone."""
    upto = folds.cumulative()
    found = scales.scale(upto, method, alpha, format)
    rows = []
    for k in range(1, len(found) + 1):
        error = float("nan")
        if k > 1:
            error = scales.jackknife_error(scales.scale(folds.head(k).leave_one_out(), method, alpha, format))
        rows.append(
            {
                **place,
                "folds": k,
                "samples": int(samples[:k].sum()),
                "n": int(upto.n[k - 1]),
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


def _divide(a: float, b: float) -> float | None:
    return a / b if b else None


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """NaN, which stands for undefined here, becomes null."""
    return pa.Table.from_pydict(
        {f.name: pa.array([row.get(f.name) for row in rows], f.type, from_pandas=True) for f in schema},
        schema,
    )
