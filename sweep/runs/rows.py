"""Blocks of columns, one for each site or layer, that the tables of a cell are put together from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from sweep.quantization import site_scales, sites
from sweep.quantization.formats import Format
from sweep.quantization.methods import registry as scales
from sweep.quantization.methods.method import Method
from sweep.quantization.methods.registry import Clips
from sweep.quantization.site_scales import NOWHERE, Reading
from sweep.quantization.site_statistics import SiteStatistics
from sweep.quantization.sort_and_cluster import Grouping
from sweep.quantization.statistics import Statistics
from sweep.quantization.types import Floats, SiteKey

Columns = dict[str, Any]  # by its name a column, or one value for all rows of the block

WEIGHT_LEVELS = 127  # weights are int8 symmetric: weight_scale = max |w| / 127, as Quamba's wx_scale


def assemble(blocks: list[Columns], schema: pa.Schema) -> pa.Table:
    """Blocks of columns, each a value for the whole block or one for each of its rows, one below the other.

    NaN, which stands for undefined here, becomes null; so does the number of a group that is none."""
    if not blocks:
        return schema.empty_table()
    lengths = [max(len(v) if isinstance(v, np.ndarray | list) else 1 for v in block.values()) for block in blocks]

    def column(field: pa.Field) -> pa.Array:
        values: list[Any] = [block.get(field.name, np.nan) for block in blocks]
        if isinstance(values[0], list):
            return pa.array(itertools.chain.from_iterable(values), field.type)
        if isinstance(values[0], str):
            return pa.array(np.repeat(values, lengths), field.type)
        rows = np.concatenate(
            [np.full(n, v, np.float64 if v is None else None) for n, v in zip(lengths, values, strict=True)]
        )
        empty = rows == NOWHERE if field.name.endswith("_group") else np.isnan(rows)
        if pa.types.is_integer(field.type):
            rows = np.where(np.isnan(rows), 0, rows).astype(np.int64)
        return pa.array(rows, field.type, mask=empty)

    return pa.table([column(field) for field in schema], schema)


def relative(key: SiteKey, site: SiteStatistics, read: dict[SiteKey, Reading]) -> Columns:
    """weight_scale, and the two ratios [P, 1 + K], of a `…_conv_out` site; NaN elsewhere."""
    scale = read[key].scale
    if site.weight_absmax is None:
        nothing = np.full_like(scale, np.nan)
        return {"weight_scale": np.nan, "ratio": nothing, "silu_gain": nothing}
    weight = site.weight_absmax / WEIGHT_LEVELS
    before = sites.named(key[1]).before
    return {
        "weight_scale": weight,
        "ratio": _divide(scale, np.full_like(scale, weight)),
        "silu_gain": _divide(scale, read[key[0], before].scale) if before else np.full_like(scale, np.nan),
    }


def row(key: SiteKey, read: Reading, relative: Columns, format: Format) -> Columns:
    """Columns of SCALES: one value, or one for each part."""
    signed = {} if format.symmetric else {"clip_low": read.clip_low, "zero_point": read.zero_point}
    same = ("n", "min", "max", "absmax", "clip", "scale_se", "clip_fraction", "mse", "code_entropy_bits")
    return {
        **_place(key, read),
        **{name: getattr(read, name) for name in same},
        **signed,
        "scale": read.scale[:, 0],
        "sqnr_db": read.sqnr_db[:, 0],
        "loss": read.loss[:, 0],
        "loss_se": read.loss_se,
        "weight_scale": relative["weight_scale"],
        "ratio": relative["ratio"][:, 0],
        "silu_gain": relative["silu_gain"][:, 0],
    }


def replicates(key: SiteKey, site: SiteStatistics, read: Reading, relative: Columns) -> Columns:
    """Columns of REPLICATES: all parts without the first fold, all without the second, …"""
    folds = len(site.folds)
    numbers = {name: getattr(read, name) for name in ("scale", "sqnr_db", "loss")}
    numbers |= {name: relative[name] for name in ("silu_gain", "ratio")}
    return {
        **{name: np.tile(v, folds) if isinstance(v, np.ndarray) else v for name, v in _place(key, read).items()},
        "fold": np.repeat(site.folds, len(read.place)),
        **{name: both[:, 1:].T.ravel() for name, both in numbers.items()},
    }


def _place(key: SiteKey, read: Reading) -> Columns:
    groups = {name: read.place[:, i] for i, name in enumerate(("ssd_group", "head_group", "dim_group"))}
    return {"layer": key[0], "site": key[1], **groups}


def convergence(
    key: SiteKey, site: SiteStatistics, method: Method, alpha: float | None, sections: Clips, factor: float
) -> Columns:
    """The scale from the first 1, 2, … K folds, and its error from those folds alone."""
    count = len(site.folds)
    growing = site_scales.clips_of(site, site.growing, method, alpha, sections.format)
    errors = np.full(count, np.nan)
    for k in range(1, count):
        low, high = np.append(growing.low[k], sections.low[1:]), np.append(growing.high[k], sections.high[1:])
        clips = Clips(sections.format, low, high)
        moved = site_scales.replicated(site, clips, np.arange(count) <= k, method, alpha, factor)
        errors[k] = scales.jackknife_error(moved.scale)
    scale = growing.scale
    return {
        "layer": key[0],
        "site": key[1],
        "folds": np.arange(1, count + 1),
        "samples": np.cumsum(site.samples),
        "n": site.growing.observed.n,
        "scale": scale,
        "scale_se": errors,
    }


def grouping(statistics: Statistics, layer: int, grouping: Grouping) -> Columns:
    ssd, heads, dims = grouping.dim_ends.shape
    names = ("channels", "heads", "head_ends", "dim_ends")
    lists = {name: [getattr(grouping, name).ravel().tolist()] for name in names}
    lists["absmax"] = [statistics.sites[layer, sites.MAIN].channel_absmax.max(0).tolist()]
    return {"layer": np.array([layer]), "ssd_groups": ssd, "head_groups": heads, "dim_groups": dims, **lists}


def histograms(statistics: Statistics) -> Iterator[Columns]:
    """512 signed bins an eighth of an octave wide over [2^-18, 2^14): W&B takes no more."""
    magnitudes = np.exp2(np.arange(257) / 8 - 18)
    edges = np.concatenate([-magnitudes[:0:-1], [0.0], magnitudes[1:]])  # 513
    for (layer, name), site in statistics.sites.items():
        if name in (sites.MAIN, sites.named(sites.MAIN).before):
            total = site.total
            inside = np.clip(total.values, edges[0], np.nextafter(edges[-1], 0))
            counts = np.bincount(np.searchsorted(edges, inside, side="right") - 1, weights=total.counts, minlength=512)
            yield {"layer": layer, "site": name, "edges": [edges], "counts": [counts.astype(np.int64)]}


def _divide(a: Floats, b: Floats) -> Floats:
    """a / b, NaN where b is 0."""
    return np.divide(a, b, out=np.full_like(a, np.nan), where=b != 0)
