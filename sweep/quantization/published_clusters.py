"""Quamba2's sort-and-cluster as its code does it (github enyac-group/Quamba at c474646, `group_wise_sort_indices`).

The algorithm, in float32. In each head the channels are sorted by their statistic, ascending, and the sorted vector is
divided by its length. In each SSD group these vectors, heads in their original order, are clustered (Ward), and the
heads sorted by their label; so cluster h takes the places from start_h to end_h of the sorted heads. Its positions are
then clustered (k-means that starts from every (headdim // dim_groups)-th position) by the vectors of rows start_h to
end_h of the *original* order, which are other heads than those of the cluster; `sort_and_cluster` takes the cluster's.

The sorts are those of the code, torch's and numpy's default ones. They keep no order among equals, so heads inside a
cluster may follow one another in another order on another processor; which heads form a cluster does not depend on it.
Where the code stops, so does this: clusters of positions that are not contiguous or fewer than asked for, a head of
zeros, one head in an SSD group, a headdim that dim_groups does not divide.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray

from sweep.core.errors import UsageError
from sweep.quantization.sort_and_cluster import Grouping


def sort_and_cluster(
    statistic: NDArray[np.float32], ssd_groups: int, headdim: int, head_groups: int, dim_groups: int
) -> Grouping:
    """Groups from one non-negative number per channel, [d_inner]. Raises UsageError where the code would stop."""
    from sklearn.cluster import AgglomerativeClustering, KMeans

    cube = torch.from_numpy(np.asarray(statistic, np.float32)).view(ssd_groups, -1, headdim)
    heads = cube.shape[1]
    if heads < max(2, head_groups) or headdim % dim_groups:
        raise _stops(
            f"it needs at least {max(2, head_groups)} heads in an SSD group and a headdim that dim_groups divides; "
            f"this model has {heads} heads and headdim {headdim}; head_groups={head_groups} dim_groups={dim_groups}"
        )
    order = torch.argsort(cube, dim=-1)
    ascending = cube.gather(-1, order)
    length = ascending.norm(dim=-1, keepdim=True)
    if not bool((length > 0).all()):
        raise _stops("a head has no value but 0")
    unit = (ascending / length).numpy()
    channels = torch.arange(cube.numel()).view(cube.shape).gather(-1, order).numpy()
    head_order = np.arange(ssd_groups * heads).reshape(ssd_groups, heads)
    head_ends = np.empty((ssd_groups, head_groups), np.int32)
    dim_ends = np.empty((ssd_groups, head_groups, dim_groups), np.int32)
    for g in range(ssd_groups):
        labels = AgglomerativeClustering(n_clusters=head_groups, linkage="ward").fit(unit[g]).labels_
        by_label = np.argsort(labels)
        channels[g], head_order[g] = channels[g, by_label], head_order[g, by_label]
        head_ends[g] = np.cumsum(np.bincount(labels, minlength=head_groups))
        start = 0
        for h, end in enumerate(head_ends[g].tolist()):
            rows = unit[g, start:end].T
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # fewer distinct positions than clusters: dealt with below
                label = KMeans(dim_groups, init=rows[:: headdim // dim_groups], n_init=1).fit(rows).labels_
            sizes = np.bincount(label, minlength=dim_groups)
            if np.any(np.diff(label) < 0) or np.any(sizes == 0):
                raise _stops(f"in SSD group {g}, head group {h}, its clusters of positions are not {dim_groups} ranges")
            dim_ends[g, h] = np.cumsum(sizes)
            start = end
    return Grouping(channels.ravel(), head_order.ravel(), head_ends, dim_ends)


def _stops(why: str) -> UsageError:
    return UsageError(f"grouping.variant=published: Quamba's code stops here: {why}. Use grouping.variant=paper")
