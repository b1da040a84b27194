"""What a calibration leaves behind: per layer and site, a histogram and channel maxima for every fold.

Statistics know no method, no alpha and no format: every scale is read off them afterwards. They merge by
putting their folds side by side, so shards of whole folds give bit for bit what one job gives.

On disk they are one Parquet file (zstd), a row per layer and site, that any reader of Parquet can open.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sweep.quantization.bins import layout
from sweep.quantization.fisher import FisherHistogram
from sweep.quantization.histogram import Histogram, short
from sweep.quantization.site_statistics import SiteStatistics
from sweep.quantization.types import Floats

SCHEMA = 3  # what the columns mean; part of a calibration's identity
WITH_FISHER = 4  # of a file with the columns of squared gradients; without them it stays what it was
Key = tuple[int, str]  # layer, site

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


def _row(key: Key, site: SiteStatistics) -> dict[str, Any]:
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


def _site(row: dict[str, Any]) -> tuple[Key, SiteStatistics]:
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


def _parts(sites: dict[Key, SiteStatistics]) -> Iterator[list[Key]]:
    """The sites in order, so many at a time that they hold about a million counts."""
    part: list[Key] = []
    held = 0
    for key, site in sites.items():
        part.append(key)
        held += site.histogram.counts.size + (site.pooled.counts.size if site.pooled else 0)
        held += site.fisher.weights.size if site.fisher else 0
        if held >= 1 << 20:
            yield part
            part, held = [], 0
    if part:
        yield part


def _unravel(flat: NDArray[np.float64], samples: NDArray[np.int64], alphas: int) -> tuple[NDArray[np.float64], ...]:
    if not alphas:
        return ()
    ends = np.cumsum(samples)[:-1] * alphas * 3
    return tuple(part.reshape(-1, alphas, 3) for part in np.split(flat, ends))


@dataclass(frozen=True, eq=False)
class Statistics:
    """All sites of all layers. `meta` is plain JSON: what the sites mean (geometry of the model, …)."""

    sites: dict[Key, SiteStatistics]
    meta: dict[str, Any]

    def __add__(self, other: Statistics) -> Statistics:
        """Both sets of folds. Raises ValueError where sites, meta or layouts differ, or folds overlap."""
        return Statistics.merge([self, other])

    @classmethod
    def merge(cls, parts: Sequence[Statistics]) -> Statistics:
        """The sum of one or more, site by site, so that no more than a site's is held in between."""
        first = parts[0]
        if any(part.sites.keys() != first.sites.keys() or part.meta != first.meta for part in parts):
            raise ValueError("cannot merge statistics of different models or sites")
        return cls({key: reduce(add, (part.sites[key] for part in parts)) for key in first.sites}, first.meta)

    def grown(self, more: Statistics) -> Statistics:
        """The same folds with later samples, see `SiteStatistics.grown`. Raises ValueError where sites differ."""
        if self.sites.keys() != more.sites.keys():
            raise ValueError("cannot grow statistics by those of other sites")
        return Statistics({key: site.grown(more.sites[key]) for key, site in self.sites.items()}, more.meta)

    def of_layer(self, layer: int) -> Statistics:
        """The sites of one layer."""
        return Statistics({key: site for key, site in self.sites.items() if key[0] == layer}, self.meta)

    def abs_sums(self, fold: int) -> dict[Key, NDArray[np.float64]]:
        """`channel_abs_sum` of one fold, by site: float64 [channels]."""
        return {key: site.channel_abs_sum[list(site.folds).index(fold)] for key, site in self.sites.items()}

    def fisher(self, fold: int) -> dict[Key, FisherHistogram]:
        """Squared gradients of one fold, by site; of those sites that have any."""
        return {
            key: site.fisher.take(np.flatnonzero(site.folds == fold)) for key, site in self.sites.items() if site.fisher
        }

    def save(self, path: Path) -> None:
        """Write one Parquet file, the same bytes for the same statistics."""
        differentiated = any(site.fisher for site in self.sites.values())
        meta = json.dumps({"schema": WITH_FISHER if differentiated else SCHEMA, **self.meta}, sort_keys=True)
        columns = pa.schema([*_COLUMNS, *(_FISHER_COLUMNS if differentiated else ())], {"sweep": meta})
        encodings = {name: how for name, how in _ENCODINGS.items() if name.partition(".")[0] in columns.names}
        writer = pq.ParquetWriter(path, columns, compression="zstd", use_dictionary=False, column_encoding=encodings)
        with writer:  # a few sites at a time, or all counts would be in memory three times
            for part in _parts(self.sites):
                writer.write_table(pa.Table.from_pylist([_row(key, self.sites[key]) for key in part], columns))

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read what `save` wrote. Raises ValueError for another schema, OSError for a damaged file."""
        file = pq.ParquetFile(path)
        meta = json.loads((file.schema_arrow.metadata or {}).get(b"sweep", b"{}"))
        if (found := meta.pop("schema", None)) not in (SCHEMA, WITH_FISHER):
            raise ValueError(f"{path}: statistics of schema {found}, this version reads {SCHEMA} and {WITH_FISHER}")
        sites: dict[Key, SiteStatistics] = {}
        for number in range(file.num_row_groups):  # in memory counts take half of what they take in a table
            sites.update(map(_site, _rows(file.read_row_group(number))))
        return cls(sites, meta)
