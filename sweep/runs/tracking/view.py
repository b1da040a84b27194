"""The view of a cell for W&B: computed from the cell's files alone, by plain Python, without wandb.

Undefined numbers (null, NaN) and infinite ones (the SQNR where nothing is lost) are left out of series and
summaries and are null in the table, since W&B's charts know neither; the Parquet files of the artifact keep them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq

from sweep.calibration.until import Look
from sweep.quantization.sites import quantized
from sweep.runs import record as runs
from sweep.runs.record import RecordError, RunRecord
from sweep.runs.results import Results

SERIES = ("scale", "clip", "scale_se", "sqnr_db", "clip_fraction", "silu_gain", "ratio", "loss")
SUMMARY = ("scale", "sqnr_db", "silu_gain", "ratio")
PROVENANCE = ("model", "tokens", "versions", "git", "device", "started", "finished")  # of run.json
MEAN_SQNR = "quantized/sqnr_db_mean"  # a key of the summary
IDENTITY = ("model", "method", "alpha", "format", "granularity")

Row = dict[str, Any]
Bins = tuple[list[int], list[float]]  # counts [n], edges [n + 1]


@dataclass(frozen=True, eq=False)
class View:
    """config: what identifies and explains the run. families: prefixes of the series, `x_conv_out`, ….
    layers: per layer `<site>/<column>` → value, the mean over the groups where a layer has several (of loss: the sum).
    histograms: per layer `<site>/values` → bins. summary: what runs are sorted by, over all rows.
    rows: all of scales.parquet. files: what the artifact holds. notes: how to read the series.
    looks: rows of the history that come before the layers, where calibration.tolerance decided when to stop."""

    config: Row
    families: list[str]
    layers: dict[int, dict[str, float]]
    histograms: dict[int, dict[str, Bins]]
    summary: Row
    rows: list[Row]
    files: list[Path]
    notes: str | None
    looks: list[dict[str, float]] = field(default_factory=list)


def read(directory: Path) -> View:
    """The view of a finished cell. Raises OSError, ValueError or KeyError where its files are damaged."""
    said = runs.content(directory)
    record = RunRecord.from_dict(said)
    if (results := record.results) is None:
        raise RecordError(f"the run is {record.status}, only a finished one has results")
    rows = pq.read_table(directory / "scales.parquet").to_pylist()
    layers = _layers(rows)
    for layer in (results.evaluation or {}).get("layers") or []:
        for part in ("only", "all_but"):
            layers.setdefault(layer["layer"], {}).update(_flat(f"evaluation/{part}", layer[part]))
    for layer in (results.loss or {}).get("layers") or []:
        layers.setdefault(layer["layer"], {}).update(_flat("predicted", {k: layer[k] for k in ("loss", "loss_se")}))
    looks = results.calibration.until.looks if results.calibration.until else ()
    groups = len(rows) / max(1, len({(row["layer"], row["site"]) for row in rows}))
    return View(
        config={
            **record.config,
            "cell": {key: rows[0][key] for key in IDENTITY} | _of_recipe(record.config),  # as in every table
            "calibration_key": results.calibration.key,
            "provenance": {key: said.get(key) for key in PROVENANCE},
        },
        families=sorted({key.split("/")[0] for values in layers.values() for key in values}),
        layers=dict(sorted(layers.items())),
        histograms=_histograms(directory / "histograms.parquet"),
        summary={
            **_summary(rows),
            **_measured(results),
            **{key: value for look in looks for key, value in summary_of_look(look).items()},
        },
        rows=[{key: _finite(value) for key, value in row.items()} for row in rows],
        files=sorted([directory / runs.FILE, *directory.glob("*.parquet"), *directory.glob(runs.RECIPE)]),
        notes="Series show the mean over the groups of a layer; the table has every group." if groups > 1 else None,
        looks=[row for look in looks for row in of_look(look)],
    )


def summary_of_look(look: Look) -> dict[str, float]:
    """The errors of a look as entries of a summary."""
    return {f"until/{name}/{look.samples}": value for name, value in _told(look).items()}


def of_look(look: Look) -> list[dict[str, float]]:
    """Rows of the history that tell of the errors after so many samples: one over the number of samples, then a curve
    over the layers, of the median error of each."""
    curve = f"until/error after {look.samples} samples"
    return [
        {"samples": look.samples, **{f"tolerance/{name}": value for name, value in _told(look).items()}},
        *(
            {"layer": layer, curve: error}
            for layer, error in zip(look.layers, look.layer_errors, strict=True)
            if math.isfinite(error)
        ),
    ]


def _told(look: Look) -> dict[str, float]:
    values = {name: getattr(look, name) for name in ("settled", "error", "worst", "loss_error")}
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}


def _of_recipe(config: Row) -> Row:
    """The configuration of a cell that follows a recipe, whose rows have methods and formats of their own."""
    return {key: config[key] for key in ("method", "alpha", "format")} if config.get("recipe") else {}


def _layers(rows: list[Row]) -> dict[int, dict[str, float]]:
    values: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for column in SERIES:
            if (value := _finite(row.get(column))) is not None:
                values[row["layer"]][f"{row['site']}/{column}"].append(value)
    return {
        layer: {key: (sum if key.endswith("/loss") else fmean)(of_groups) for key, of_groups in series.items()}
        for layer, series in values.items()
    }


def _histograms(path: Path) -> dict[int, dict[str, Bins]]:
    """Without the empty bins at both ends, which would squeeze the picture into one column of pixels."""
    layers: dict[int, dict[str, Bins]] = defaultdict(dict)
    for row in pq.read_table(path).to_pylist():
        if used := [i for i, count in enumerate(row["counts"]) if count]:
            first, last = used[0], used[-1] + 1
            bins = row["counts"][first:last], row["edges"][first : last + 1]
            layers[row["layer"]][f"{row['site']}/values"] = bins
    return dict(layers)


def _summary(rows: list[Row]) -> Row:
    """Mean, min and max per site; the layer of the worst SQNR of each site, and of all; the mean over those that are
    quantized."""
    sites: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        sites[row["site"]].append(row)
    summary: Row = {}
    for site, part in sites.items():
        for column in SUMMARY:
            if values := [v for row in part if (v := _finite(row[column])) is not None]:
                for name, of in (("mean", fmean), ("min", min), ("max", max)):
                    summary[f"{site}/{column}_{name}"] = of(values)
        if worst := _worst(part):
            summary[f"{site}/worst_layer"] = worst["layer"]
    if worst := _worst(rows):
        summary |= {f"worst/{key}": worst[key] for key in ("site", "layer", "sqnr_db")}
    if (mean := _mean_sqnr(rows)) is not None:
        summary[MEAN_SQNR] = mean
    return summary


def _mean_sqnr(rows: Iterable[Row]) -> float | None:
    """Mean SQNR in dB over the layers' quantized sites, as the comparison has it: the groups of a site pooled by their
    energies, sites where nothing is lost, or nothing was observed, left out. None if there is no other."""
    places: dict[tuple[int, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["site"] in quantized() and _finite(row["sqnr_db"]) is not None:
            places[row["layer"], row["site"]].append(row)
    return fmean(map(_pooled, places.values())) if places else None


def _pooled(groups: list[Row]) -> float:
    """SQNR of several groups of channels together: 10 log10 of the sum of their signals over that of their errors."""
    if len(groups) == 1:
        return float(groups[0]["sqnr_db"])
    errors = [row["n"] * row["mse"] for row in groups]
    signals = [error * 10 ** (row["sqnr_db"] / 10) for error, row in zip(errors, groups, strict=True)]
    return 10 * math.log10(sum(signals) / sum(errors))


def _worst(rows: Iterable[Row]) -> Row | None:
    return min((r for r in rows if _finite(r["sqnr_db"]) is not None), key=lambda r: r["sqnr_db"], default=None)


def _measured(results: Results) -> Row:
    parts = {name: getattr(results, name) or {} for name in ("timings", "counts", "evaluation", "loss")}
    return {key: value for prefix, values in parts.items() for key, value in _flat(prefix, values).items()}


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
    """Finite numbers of nested mappings, by path; anything else is left out."""
    flat: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(f"{prefix}/{key}", value)
        elif isinstance(value, (int, float)) and math.isfinite(value):
            flat[f"{prefix}/{key}"] = value
    return flat


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
