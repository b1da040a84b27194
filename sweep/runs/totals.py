"""Sums over a cell's scales.parquet, kept in its run.json: all that a comparison asks of every cell.

A table takes a quarter of a millisecond to open, so that thousands of cells are ranked by these, and only the tables
that an answer then needs are opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from sweep.quantization.sites import quantized

if TYPE_CHECKING:
    import pyarrow as pa  # of ten thousand records that are read none needs it


@dataclass(frozen=True)
class Totals:
    """size: of scales.parquet, bytes; where it has another one by now, the totals are of another table. rows: SHA-256
    of scales and SQNR at every place, bit for bit, whatever the order of the rows; grid: the first 16 digits of that of
    the places alone. sites: all of the table.

    Of the quantized sites: places, finite: how many there are, and of how many the SQNR is finite; sqnr_db: its mean
    over these; unknown: places of positive scale and unknown SQNR; clip_fraction: share of all values that are clipped.
    None where undefined."""

    size: int
    rows: str
    grid: str
    sites: tuple[str, ...]
    places: int
    finite: int
    sqnr_db: float | None
    unknown: int
    clip_fraction: float | None

    @classmethod
    def of(cls, scales: pa.Table, size: int) -> Totals | None:
        """The totals of a table in the schema SCALES; None where a place has several scales, whose SQNR would have to
        be pooled."""
        if any(scales[group].null_count < len(scales) for group in ("ssd_group", "head_group", "dim_group")):
            return None
        columns = ("layer", "site", "scale", "sqnr_db", "n", "clip_fraction")
        layer, site, scale, sqnr, n, clipped = (scales[name].to_numpy() for name in columns)  # null becomes NaN
        names = site.astype(str)
        order = np.lexsort((names, layer))
        digest = hashlib.sha256("\n".join(site[order]).encode() + layer[order].astype(np.int64).tobytes())
        grid = digest.hexdigest()[:16]
        for column in (scale, sqnr):
            digest.update(column[order].tobytes())
        rounded = np.isin(names, quantized())
        finite, known = rounded & np.isfinite(sqnr), rounded & np.isfinite(clipped)
        return cls(
            size,
            digest.hexdigest(),
            grid,
            tuple(np.unique(names).tolist()),
            int(rounded.sum()),
            int(finite.sum()),
            float(sqnr[finite].mean()) if finite.any() else None,
            int((rounded & np.isnan(sqnr) & (scale > 0)).sum()),
            float(np.average(clipped[known], weights=n[known])) if n[known].any() else None,
        )

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Totals | None:
        """None for those of a version that had others: the table itself tells then."""
        if raw.keys() != {field.name for field in fields(cls)}:
            return None
        return cls(**{**raw, "sites": tuple(raw["sites"])})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"sites": list(self.sites)}
