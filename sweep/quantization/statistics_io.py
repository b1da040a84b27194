"""Statistics as one Parquet file (zstd), a row per layer and site, that any reader of Parquet can open.

The same bytes for the same statistics: files of earlier versions are compared with new ones byte by byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sweep.quantization.bins import layout
from sweep.quantization.fisher import FisherHistogram
from sweep.quantization.histogram import Histogram, short
from sweep.quantization.site_statistics import SiteStatistics
from sweep.quantization.types import Floats, Ints, SiteKey

SCHEMA = 3  # what the columns mean; part of a calibration's identity
WITH_FISHER = 4  # of a file with the columns of squared gradients; without them it stays what it was

_COLUMNS = pa.schema(
    [
        ("layer", pa.int32()),
        ("site", pa.string()),
        ("layout", pa.string()),
        ("folds", pa.list_(pa.int32())),
        ("samples", pa.list_(pa.int64())),
        ("min", pa.list_(pa.float64())),
        ("max", pa.list_(pa.float64())),
        ("bins", pa.list_(pa.int32())),
        ("counts", pa.list_(pa.int64())),
        ("pooled_layout", pa.string()),
        ("pooled_bins", pa.list_(pa.int32())),
        ("pooled_counts", pa.list_(pa.int64())),
        ("channel_absmax", pa.list_(pa.float32())),
        ("channel_abs_sum", pa.list_(pa.float64())),
        ("channel_text_mean_max", pa.list_(pa.float32())),
        ("weight_absmax", pa.float64()),
        ("text_alphas", pa.list_(pa.float64())),
        ("text_quantiles", pa.list_(pa.float64())),
    ]
)
_FISHER_COLUMNS = pa.schema(
    [
        ("fisher_layout", pa.string()),
        ("fisher_bins", pa.list_(pa.int32())),
        ("fisher_weights", pa.list_(pa.float64())),
        ("fisher_tokens", pa.list_(pa.int64())),
    ]
)
# a third smaller than plain encoding, and read four times as fast
_ENCODINGS = {
    "bins.list.element": "DELTA_BINARY_PACKED",
    "counts.list.element": "BYTE_STREAM_SPLIT",
    "pooled_bins.list.element": "DELTA_BINARY_PACKED",
    "pooled_counts.list.element": "BYTE_STREAM_SPLIT",
    "channel_absmax.list.element": "BYTE_STREAM_SPLIT",
    "channel_abs_sum.list.element": "BYTE_STREAM_SPLIT",
    "channel_text_mean_max.list.element": "BYTE_STREAM_SPLIT",
    "fisher_bins.list.element": "DELTA_BINARY_PACKED",
    "fisher_weights.list.element": "BYTE_STREAM_SPLIT",
}


def write(path: Path, sites: Mapping[SiteKey, SiteStatistics], meta: Mapping[str, Any]) -> None:
    """Write one file. meta: plain JSON."""
    differentiated = any(site.fisher for site in sites.values())
    text = json.dumps({"schema": WITH_FISHER if differentiated else SCHEMA, **meta}, sort_keys=True)
    columns = pa.schema([*_COLUMNS, *(_FISHER_COLUMNS if differentiated else ())], {"sweep": text})
    encodings = {name: how for name, how in _ENCODINGS.items() if name.partition(".")[0] in columns.names}
    writer = pq.ParquetWriter(path, columns, compression="zstd", use_dictionary=False, column_encoding=encodings)
    with writer:  # a few sites at a time, or all counts would be in memory three times
        for keys in _batches(sites):
            writer.write_table(pa.Table.from_pylist([_row(key, sites[key]) for key in keys], columns))


def read(path: Path) -> tuple[dict[SiteKey, SiteStatistics], dict[str, Any]]:
    """The sites and the meta of a file. Raises ValueError for another schema, OSError for a damaged file."""
    file = pq.ParquetFile(path)
    meta = json.loads((file.schema_arrow.metadata or {}).get(b"sweep", b"{}"))
    if (schema := meta.pop("schema", None)) not in (SCHEMA, WITH_FISHER):
        raise ValueError(f"{path}: statistics of schema {schema}, this version reads {SCHEMA} and {WITH_FISHER}")
    sites: dict[SiteKey, SiteStatistics] = {}
    for number in range(file.num_row_groups):  # in memory counts take half of what they take in a table
        sites.update(map(_site, _rows(file.read_row_group(number))))
    return sites, meta


def _row(key: SiteKey, site: SiteStatistics) -> dict[str, Any]:
    return {
        "layer": key[0],
        "site": key[1],
        "layout": str(site.histogram.layout),
        "folds": site.folds,
        "samples": site.samples,
        "min": site.histogram.min,
        "max": site.histogram.max,
        "bins": site.histogram.bins.astype(np.int32),
        "counts": site.histogram.counts.ravel().astype(np.int64),
        "pooled_layout": str(site.pooled.layout) if site.pooled else None,
        "pooled_bins": site.pooled.bins.astype(np.int32) if site.pooled else (),
        "pooled_counts": site.pooled.counts.ravel().astype(np.int64) if site.pooled else (),
        "channel_absmax": site.channel_absmax.ravel(),
        "channel_abs_sum": site.channel_abs_sum.ravel(),
        "channel_text_mean_max": site.channel_text_mean_max.ravel(),
        "weight_absmax": site.weight_absmax,
        "text_alphas": site.text_alphas,
        "text_quantiles": np.concatenate([q.ravel() for q in (*site.text_quantiles, np.zeros(0))]),
        "fisher_layout": str(site.fisher.layout) if site.fisher else None,
        "fisher_bins": site.fisher.bins.astype(np.int32) if site.fisher else (),
        "fisher_weights": site.fisher.weights.ravel() if site.fisher else (),
        "fisher_tokens": site.fisher.tokens if site.fisher else (),
    }


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Lists as arrays that share the table's memory."""
    columns = [
        [value.values.to_numpy() if hasattr(value, "values") else value.as_py() for value in column]
        for column in table.columns
    ]
    return (dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True))


def _site(row: dict[str, Any]) -> tuple[SiteKey, SiteStatistics]:
    def histogram(which: str, k: int, low: Floats, high: Floats) -> Histogram:
        bins, counts = row[f"{which}bins"].astype(np.uint16), row[f"{which}counts"].reshape(k, -1)
        return Histogram(layout(row[f"{which}layout"]), bins, short(counts), low, high)

    k, low, high = len(row["folds"]), row["min"], row["max"]
    ends = low.min(keepdims=True), high.max(keepdims=True)
    site = SiteStatistics(
        folds=row["folds"],
        samples=row["samples"],
        histogram=histogram("", k, low, high),
        channel_absmax=row["channel_absmax"].reshape(k, -1),
        channel_abs_sum=row["channel_abs_sum"].reshape(k, -1),
        channel_text_mean_max=row["channel_text_mean_max"].reshape(k, -1),
        weight_absmax=row["weight_absmax"],
        text_alphas=row["text_alphas"],
        text_quantiles=_unravel(row["text_quantiles"], row["samples"], len(row["text_alphas"])),
        pooled=histogram("pooled_", 1, *ends) if row["pooled_layout"] else None,
        fisher=_fisher(row) if row.get("fisher_layout") else None,
    )
    return (row["layer"], row["site"]), site


def _fisher(row: dict[str, Any]) -> FisherHistogram:
    bins, tokens = row["fisher_bins"].astype(np.uint16), row["fisher_tokens"]
    return FisherHistogram(layout(row["fisher_layout"]), bins, row["fisher_weights"].reshape(len(tokens), -1), tokens)


def _batches(sites: Mapping[SiteKey, SiteStatistics]) -> Iterator[list[SiteKey]]:
    """The sites in order, so many at a time that they hold about a million counts."""
    batch: list[SiteKey] = []
    held = 0
    for key, site in sites.items():
        batch.append(key)
        held += site.histogram.counts.size + (site.pooled.counts.size if site.pooled else 0)
        held += site.fisher.weights.size if site.fisher else 0
        if held >= 1 << 20:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _unravel(flat: Floats, samples: Ints, alphas: int) -> tuple[Floats, ...]:
    if not alphas:
        return ()
    ends = np.cumsum(samples)[:-1] * alphas * 3
    return tuple(part.reshape(-1, alphas, 3) for part in np.split(flat, ends))
