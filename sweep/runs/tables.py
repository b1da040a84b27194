"""From statistics and one cell of the grid to the tables that the cell writes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sweep.config.config import Config
from sweep.config.knobs import QUANTIZED
from sweep.core.errors import UsageError
from sweep.quantization import formats, granularity, site_scales
from sweep.quantization.formats import Format
from sweep.quantization.methods import registry as scales
from sweep.quantization.methods.method import Method, Reads
from sweep.quantization.methods.registry import Clips
from sweep.quantization.site_scales import NOWHERE, WHOLE, Reading
from sweep.quantization.site_statistics import SiteStatistics
from sweep.quantization.sort_and_cluster import Grouping
from sweep.quantization.statistics import Key, Statistics
from sweep.quantization.types import Floats
from sweep.runs.schemas import CONVERGENCE, GROUPING, HISTOGRAMS, REPLICATES, SCALES

Columns = dict[str, Any]

KEPT = 40_000_000  # counts, about a GB: statistics up to this size stay prepared for further cells to read
WEIGHT_LEVELS = 127  # weights are int8 symmetric: weight_scale = max |w| / 127, as Quamba's wx_scale


@dataclass(frozen=True, eq=False)
class Tables:
    """What a cell writes, each one as `<field>.parquet`.

    scales: a row per layer, site and part with a scale of its own. replicates: the same numbers as without one fold
    (see `quantization.replicates`), a row per fold, for errors of differences between cells. convergence: a row per
    layer, site and number of folds used (granularity=tensor). histograms: 512 signed logarithmic bins of the values
    before and after SiLU, for pictures. grouping: a row per layer, the fields of `Grouping` flattened and the largest
    magnitude of every channel, in the original order (granularity=group, else None)."""

    scales: pa.Table
    replicates: pa.Table
    convergence: pa.Table
    histograms: pa.Table
    grouping: pa.Table | None


def build(
    statistics: Statistics,
    config: Config,
    grouped: Statistics | None = None,
    keep: bool = False,
    factor: float = 1.0,
) -> Tables:
    """All tables of one cell; grouped: statistics of its groups, where it takes them (see `collect`). keep: leave the
    statistics prepared for further cells of this process, unless they are large. factor: what errors are multiplied
    by, since samples repeat (see `replicates.error_factor`).

    Raises UsageError for a grouping that the model's geometry does not allow, and for gradients that are not there."""
    _check(config, statistics, grouped)
    splits, groupings = granularity.split(statistics, config.granularity, config.grouping)
    found: dict[Key, Reading] = {}
    convergence = []
    # what is not kept is prepared site after site, so that it never is in memory together: see `prepared_size`
    sizes = (site.prepared_size for part in (statistics, grouped) if part for site in part.sites.values())
    once = (lambda site: site) if keep and sum(sizes) <= KEPT else SiteStatistics.unprepared
    chosen = {key: config.choice(*key) for key in statistics.sites}
    for key, site in ((key, once(site)) for key, site in statistics.sites.items()):
        alpha = chosen[key].alpha
        method, format = scales.named(chosen[key].method), formats.named(chosen[key].format)
        split = splits.get(key)
        if split and not grouped:
            found[key] = site_scales.of_maxima(site, split, format, factor)
            continue
        observed = [(WHOLE, site)]
        if split and grouped:
            layer, name = key
            observed = [(place, once(grouped.sites[layer, granularity.name(name, place)])) for place, _ in split]
        try:
            found[key] = site_scales.of_histograms(observed, method, alpha, format, factor)
        except UsageError as error:
            raise UsageError(f"layer {key[0]}, site {key[1]}: {error}") from error
        if config.granularity == "tensor":
            convergence.append(_convergence(key, site, method, alpha, found[key].sections[0], factor))
    cell = {"model": config.model.name, "granularity": config.granularity}
    rows, replicates = [], []
    for key, site in statistics.sites.items():
        relative = _relative(key, site, found)
        rows.append(cell | vars(chosen[key]) | _row(key, found[key], relative, formats.named(chosen[key].format)))
        replicates.append(_replicates(key, site, found[key], relative))
    return Tables(
        assemble(rows, SCALES),
        assemble(replicates, REPLICATES),
        assemble(convergence, CONVERGENCE),
        assemble(list(_coarse(statistics)), HISTOGRAMS),
        assemble([_grouping(statistics, layer, g) for layer, g in groupings.items()], GROUPING) if groupings else None,
    )


def _check(config: Config, *parts: Statistics | None) -> None:
    """Raises UsageError where a recipe is of another model, and where a method needs gradients that are not there."""
    for statistics in filter(None, parts):
        for (layer, name), site in statistics.sites.items():
            if (plain := name.partition("[")[0]) not in QUANTIZED:
                continue
            if config.chosen and (layer, plain) not in config.chosen.sites:
                raise UsageError(
                    f"recipe={config.recipe} says nothing of {plain} of layer {layer} of {config.model.name}; "
                    f"it was made for {config.chosen.model}"
                )
            method = scales.named(config.choice(layer, plain).method)
            if site.fisher is None and method.reads is Reads.FISHER:
                raise UsageError(
                    f"method={method}: no gradients were collected of {name} of layer {layer}; "
                    f"choose granularity=tensor instead of {config.granularity}, or method=mse"
                )
    if config.chosen and parts[0] and (strange := sorted(config.chosen.sites.keys() - parts[0].sites.keys())):
        layer, name = strange[0]
        raise UsageError(
            f"recipe={config.recipe} speaks of {name} of layer {layer}, which {config.model.name} does not have; "
            f"it was made for {config.chosen.model}"
        )


def _relative(key: Key, site: SiteStatistics, found: dict[Key, Reading]) -> Columns:
    """weight_scale, and the two ratios [P, 1 + K], of a `…_conv_out` site; NaN elsewhere."""
    scale = found[key].scale
    if site.weight_absmax is None:
        nothing = np.full_like(scale, np.nan)
        return {"weight_scale": np.nan, "ratio": nothing, "silu_gain": nothing}
    weight = site.weight_absmax / WEIGHT_LEVELS
    before = found[key[0], key[1].replace("_out", "_pre")].scale
    return {
        "weight_scale": weight,
        "ratio": _divide(scale, np.full_like(scale, weight)),
        "silu_gain": _divide(scale, before),
    }


def _row(key: Key, read: Reading, relative: Columns, format: Format) -> Columns:
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


def _replicates(key: Key, site: SiteStatistics, read: Reading, relative: Columns) -> Columns:
    """Columns of REPLICATES: all parts without the first fold, all without the second, …"""
    folds = len(site.folds)
    numbers = {name: getattr(read, name) for name in ("scale", "sqnr_db", "loss")}
    numbers |= {name: relative[name] for name in ("silu_gain", "ratio")}
    return {
        **{name: np.tile(v, folds) if isinstance(v, np.ndarray) else v for name, v in _place(key, read).items()},
        "fold": np.repeat(site.folds, len(read.place)),
        **{name: both[:, 1:].T.ravel() for name, both in numbers.items()},
    }


def _place(key: Key, read: Reading) -> Columns:
    groups = {name: read.place[:, i] for i, name in enumerate(("ssd_group", "head_group", "dim_group"))}
    return {"layer": key[0], "site": key[1], **groups}


def _convergence(
    key: Key, site: SiteStatistics, method: Method, alpha: float | None, sections: Clips, factor: float
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


def _grouping(statistics: Statistics, layer: int, grouping: Grouping) -> Columns:
    ssd, heads, dims = grouping.dim_ends.shape
    names = ("channels", "heads", "head_ends", "dim_ends")
    lists = {name: [getattr(grouping, name).ravel().tolist()] for name in names}
    lists["absmax"] = [statistics.sites[layer, "x_conv_out"].channel_absmax.max(0).tolist()]
    return {"layer": np.array([layer]), "ssd_groups": ssd, "head_groups": heads, "dim_groups": dims, **lists}


def _coarse(statistics: Statistics) -> Any:
    """512 signed bins an eighth of an octave wide over [2^-18, 2^14): W&B takes no more."""
    magnitudes = np.exp2(np.arange(257) / 8 - 18)
    edges = np.concatenate([-magnitudes[:0:-1], [0.0], magnitudes[1:]])  # 513
    for (layer, name), site in statistics.sites.items():
        if name in ("x_conv_pre", "x_conv_out"):
            total = site.total
            inside = np.clip(total.values, edges[0], np.nextafter(edges[-1], 0))
            counts = np.bincount(np.searchsorted(edges, inside, side="right") - 1, weights=total.counts, minlength=512)
            yield {"layer": layer, "site": name, "edges": [edges], "counts": [counts.astype(np.int64)]}


def _divide(a: Floats, b: Floats) -> Floats:
    """a / b, NaN where b is 0."""
    return np.divide(a, b, out=np.full_like(a, np.nan), where=b != 0)


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
