"""Granularity: which parts of a site have a scale of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sweep.core.errors import UsageError
from sweep.quantization import sites
from sweep.quantization.site_scales import NOWHERE, Place
from sweep.quantization.sites import Channels
from sweep.quantization.sort_and_cluster import Grouping, sort_and_cluster
from sweep.quantization.statistics import Statistics
from sweep.quantization.types import Ints, SiteKey

Parts = list[tuple[Place, Ints]]  # of a site: place, channels


class Clusters(Protocol):
    """Numbers of clusters of heads and of positions, and the algorithm: the knobs `grouping.*`."""

    @property
    def head_groups(self) -> int: ...
    @property
    def dim_groups(self) -> int: ...
    @property
    def variant(self) -> str: ...


def split(
    statistics: Statistics, granularity: str, clusters: Clusters
) -> tuple[dict[SiteKey, Parts], dict[int, Grouping]]:
    """The parts of every site that has more than one, and for `group` the groupings of the layers.

    Raises UsageError for a grouping that the model's geometry does not allow."""
    groupings = by_group(statistics, clusters) if granularity == "group" else {}
    splits: dict[SiteKey, Parts | None] = {}
    for (layer, name), site in statistics.sites.items():
        channels = site.channel_absmax.shape[1]
        if granularity == "channel":
            splits[layer, name] = by_channel(name, channels, statistics.meta)
        elif granularity == "group":
            splits[layer, name] = grouped(name, channels, statistics.meta, groupings[layer])
    return {key: parts for key, parts in splits.items() if parts}, groupings


def by_channel(site: str, channels: int, geometry: dict[str, Any]) -> Parts:
    """Every channel for itself. Numbers: SSD group, head within it and channel within the head for x and what goes
    into out_proj and for the state; SSD group and state for B and C; the channel alone elsewhere, also for those of an
    MLP within the mixer, which enter out_proj in front of the heads."""
    ssd = int(geometry["n_groups"])
    numbered = sites.named(site).channels
    if numbered is Channels.STATES:
        return [((c * ssd // channels, NOWHERE, c % (channels // ssd)), np.array([c])) for c in range(channels)]
    if numbered is Channels.PLAIN or geometry["family"] == "mamba1":
        return [((NOWHERE, NOWHERE, c), np.array([c])) for c in range(channels)]
    headdim, heads = int(geometry["headdim"]), int(geometry["n_heads"]) // ssd
    mlp = channels - headdim * heads * ssd
    places: list[Place] = [(NOWHERE, NOWHERE, c) for c in range(mlp)]
    places += [(c // headdim // heads, c // headdim % heads, c % headdim) for c in range(channels - mlp)]
    return [(place, np.array([c])) for c, place in enumerate(places)]


def by_group(statistics: Statistics, clusters: Clusters) -> dict[int, Grouping]:
    """Quamba2's grouping of every layer, from the x channels after SiLU.

    Raises UsageError for a model without heads, or with too few of them."""
    geometry = statistics.meta
    if geometry["family"] != "mamba2":
        raise UsageError(
            f"granularity=group clusters the heads of Mamba-2; this model is {geometry['family']}, which has none. "
            "Use granularity=channel or granularity=tensor"
        )
    cluster = _variant(clusters.variant)
    groupings = {}
    for (layer, name), site in statistics.sites.items():
        if name == sites.MAIN:
            statistic, shape = site.channel_text_mean_max.max(0), (int(geometry["n_groups"]), int(geometry["headdim"]))
            try:
                groupings[layer] = cluster(statistic, *shape, clusters.head_groups, clusters.dim_groups)
            except UsageError as error:
                raise UsageError(f"layer {layer}: {error}") from error
    return groupings


def _variant(name: str) -> Callable[[NDArray[np.float32], int, int, int, int], Grouping]:
    if name == "paper":
        return sort_and_cluster
    from sweep.quantization import published_clusters  # which imports torch

    return published_clusters.sort_and_cluster


def grouped(site: str, channels: int, geometry: dict[str, Any], grouping: Grouping) -> Parts | None:
    """The parts of a site under a grouping: groups of x and SSD groups of B and C after the convolution, as in
    Quamba2, and None for sites that keep one scale."""
    row = sites.named(site)
    if not row.grouped:
        return None
    if row.channels is Channels.HEADS:
        return list(grouping)
    width = channels // int(geometry["n_groups"])
    return [((g, NOWHERE, NOWHERE), np.arange(g * width, (g + 1) * width)) for g in range(channels // width)]


def name(site: str, place: Place) -> str:
    """The site name of one group's statistics: `x_conv_out[0,1,2]`."""
    return f"{site}[{','.join(map(str, place))}]"
