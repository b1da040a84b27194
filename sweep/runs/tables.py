"""From statistics and one cell of the grid to the tables that the cell writes."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from sweep.config.config import Config
from sweep.core.errors import UsageError
from sweep.quantization import formats, granularity, site_scales, sites
from sweep.quantization.methods import registry as scales
from sweep.quantization.methods.method import Reads
from sweep.quantization.site_scales import WHOLE, Reading
from sweep.quantization.site_statistics import SiteStatistics
from sweep.quantization.statistics import Statistics
from sweep.quantization.types import SiteKey
from sweep.runs import rows
from sweep.runs.schemas import CONVERGENCE, GROUPING, HISTOGRAMS, REPLICATES, SCALES

KEPT = 40_000_000  # counts, about a GB: statistics up to this size stay prepared for further cells to read


@dataclass(frozen=True, eq=False)
class Tables:
    """The tables of a cell, each written as `<field>.parquet`.

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
    read: dict[SiteKey, Reading] = {}
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
            read[key] = site_scales.of_maxima(site, split, format, factor)
            continue
        observed = [(WHOLE, site)]
        if split and grouped:
            layer, name = key
            observed = [(place, once(grouped.sites[layer, granularity.name(name, place)])) for place, _ in split]
        try:
            read[key] = site_scales.of_histograms(observed, method, alpha, format, factor)
        except UsageError as error:
            raise UsageError(f"layer {key[0]}, site {key[1]}: {error}") from error
        if config.granularity == "tensor":
            convergence.append(rows.convergence(key, site, method, alpha, read[key].sections[0], factor))
    cell = {"model": config.model.name, "granularity": config.granularity}
    of_scales, replicates = [], []
    for key, site in statistics.sites.items():
        relative = rows.relative(key, site, read)
        of_scales.append(
            cell | vars(chosen[key]) | rows.row(key, read[key], relative, formats.named(chosen[key].format))
        )
        replicates.append(rows.replicates(key, site, read[key], relative))
    return Tables(
        rows.assemble(of_scales, SCALES),
        rows.assemble(replicates, REPLICATES),
        rows.assemble(convergence, CONVERGENCE),
        rows.assemble(list(rows.histograms(statistics)), HISTOGRAMS),
        rows.assemble([rows.grouping(statistics, layer, g) for layer, g in groupings.items()], GROUPING)
        if groupings
        else None,
    )


def _check(config: Config, *parts: Statistics | None) -> None:
    """Raises UsageError where a recipe is of another model, and where a method needs gradients that are not there."""
    for statistics in filter(None, parts):
        for (layer, name), site in statistics.sites.items():
            if (plain := name.partition("[")[0]) not in sites.quantized():
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
