"""Groups of channels that share a scale, by Quamba2's sort-and-cluster.

Chiang et al., "Quamba2: A Robust and Scalable Post-training Quantization Framework for Selective State Space
Models", ICML 2025, arXiv 2503.22879, section 3; `group_wise_sort_indices` of its code. In each head, channels are
sorted by their statistic (the largest over texts of the text's mean |x|). Heads, as these sorted vectors at unit
length, are clustered within each SSD group (Ward); then, within each cluster of heads, the sorted positions are
clustered (k-means that starts from every (headdim / clusters)-th position). A group is a cluster of positions in a
cluster of heads in an SSD group.

Here k-means sees the heads of its own cluster, as the paper says. The published code passes it the rows
[start, end) of the heads in their original order, which are other heads; its dim ranges differ for that reason
(`sweep.quantization.published_clusters` does as it does).
Sorts are stable, so equal statistics keep their order. Where k-means does not give as many contiguous clusters as
asked for (equal positions), the positions are cut into equal parts.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.core.errors import UsageError
from sweep.quantization.types import Floats, Ints


@dataclass(frozen=True, eq=False)
class Grouping:
    """Groups of the x channels of one layer.

    channels: int64 [d_inner], the original channel at each new position (Quamba's `channel_index`).
    heads: int64 [n_heads], likewise for heads.
    head_ends: int32 [ssd_groups, head_groups], where each cluster of heads ends, counted within its SSD group.
    dim_ends: int32 [ssd_groups, head_groups, dim_groups], where each cluster of positions ends within a head.
    """

    channels: Ints
    heads: Ints
    head_ends: NDArray[np.int32]
    dim_ends: NDArray[np.int32]

    def __iter__(self) -> Iterator[tuple[tuple[int, int, int], Ints]]:
        """((ssd_group, head_group, dim_group), the original channels in it), in ascending order."""
        per_group = len(self.heads) // len(self.head_ends)
        headdim = len(self.channels) // len(self.heads)
        place = self.channels.reshape(len(self.head_ends), per_group, headdim)
        for g, ends in enumerate(self.head_ends):
            for h, (start, end) in enumerate(_ranges(ends)):
                for d, (first, last) in enumerate(_ranges(self.dim_ends[g, h])):
                    yield (g, h, d), place[g, start:end, first:last].ravel()


def sort_and_cluster(
    statistic: NDArray[np.float32], ssd_groups: int, headdim: int, head_groups: int, dim_groups: int
) -> Grouping:
    """Groups from one non-negative number per channel, [d_inner].

    Raises UsageError where there are fewer heads or channels than groups."""
    heads = len(statistic) // headdim // ssd_groups
    if head_groups > heads or dim_groups > headdim:
        raise UsageError(
            f"granularity=group with grouping.head_groups={head_groups} and grouping.dim_groups={dim_groups} needs as "
            f"many heads in an SSD group and channels in a head; this model has {heads} and {headdim}"
        )
    cube = np.asarray(statistic, np.float64).reshape(ssd_groups, heads, headdim)
    order = np.argsort(cube, axis=-1, kind="stable")
    ascending = np.take_along_axis(cube, order, -1)
    length = np.linalg.norm(ascending, axis=-1, keepdims=True)
    unit = np.divide(ascending, length, out=np.zeros_like(ascending), where=length > 0)
    channels = np.arange(len(statistic)).reshape(cube.shape)
    head_order = np.arange(ssd_groups * heads).reshape(ssd_groups, heads)
    head_ends = np.empty((ssd_groups, head_groups), np.int32)
    dim_ends = np.empty((ssd_groups, head_groups, dim_groups), np.int32)
    for g in range(ssd_groups):
        label = _ward(unit[g], head_groups)
        by_label = np.argsort(label, kind="stable")
        head_ends[g] = np.cumsum(np.bincount(label, minlength=head_groups))
        head_order[g] = head_order[g, by_label]
        channels[g] = np.take_along_axis(channels[g], order[g], -1)[by_label]
        for h, (start, end) in enumerate(_ranges(head_ends[g])):
            dim_ends[g, h] = _positions(unit[g, by_label[start:end]].T, dim_groups)
    return Grouping(channels.ravel(), head_order.ravel(), head_ends, dim_ends)


def _ward(heads: Floats, clusters: int) -> Ints:
    if clusters == 1 or clusters == len(heads):
        return np.arange(len(heads)) if clusters > 1 else np.zeros(len(heads), np.int64)
    from sklearn.cluster import AgglomerativeClustering

    return np.asarray(AgglomerativeClustering(n_clusters=clusters, linkage="ward").fit(heads).labels_, np.int64)


def _positions(positions: Floats, clusters: int) -> Ints:
    """The end of each cluster of positions, of their values [headdim, heads]."""
    from sklearn.cluster import KMeans

    stride = len(positions) // clusters
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct positions than clusters: dealt with below
        label = KMeans(n_clusters=clusters, init=positions[::stride][:clusters], n_init=1).fit(positions).labels_
    sizes = np.bincount(label, minlength=clusters)
    if np.any(np.diff(label) < 0) or np.any(sizes == 0):
        return np.arange(1, clusters + 1) * len(positions) // clusters
    return np.cumsum(sizes)


def _ranges(ends: NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    start = 0
    for end in ends.tolist():
        yield start, end
        start = end
