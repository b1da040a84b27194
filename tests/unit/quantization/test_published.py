"""The groups of Quamba's code, against its algorithm stated again here: sets of heads, then ranges of positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import AgglomerativeClustering

from sweep.config import knobs
from sweep.core.errors import UsageError
from sweep.quantization import granularity
from sweep.quantization.published_clusters import sort_and_cluster
from sweep.quantization.sort_and_cluster import sort_and_cluster as of_paper


def lloyd(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Labels of k-means from given centres, by Lloyd's two steps until nothing changes."""
    label = np.full(len(points), -1)
    while True:
        new = np.square(points[:, None] - centres).sum(-1).argmin(1)
        if (new == label).all():
            return label
        label = new
        centres = np.stack([points[label == k].mean(0) for k in range(len(centres))])


def stated(statistic: np.ndarray, ssd: int, headdim: int, head_groups: int, dim_groups: int) -> list[frozenset[int]]:
    """The channels of every group, in order."""
    cube = statistic.reshape(ssd, -1, headdim)
    groups = []
    for g, heads in enumerate(cube):
        order = np.argsort(heads, axis=1)
        rows = np.sort(heads, axis=1)
        rows = rows / np.sqrt(np.square(rows).sum(1, keepdims=True))
        label = AgglomerativeClustering(n_clusters=head_groups, linkage="ward").fit(rows.astype(np.float32)).labels_
        start = 0
        for h in range(head_groups):
            members = np.flatnonzero(label == h)
            others = rows[start : start + len(members)].T  # the rows at those places before the heads were sorted
            start += len(members)
            ranges = lloyd(others, others[:: headdim // dim_groups])
            for d in range(dim_groups):
                groups.append(
                    frozenset(
                        int((g * len(heads) + i) * headdim + order[i, p])
                        for i in members
                        for p in np.flatnonzero(ranges == d)
                    )
                )
    return groups


def draw(size: int, seed: int) -> np.ndarray:
    return (torch.rand(size, generator=torch.Generator().manual_seed(seed)) ** 3 + 0.01).numpy()


@pytest.mark.parametrize("shape", [(1, 24, 64, 4, 4), (8, 16, 64, 4, 4), (2, 12, 24, 4, 4), (1, 80, 64, 4, 4)])
def test_every_group_is_that_of_the_code(shape: tuple[int, ...]) -> None:
    ssd, heads, headdim, head_groups, dim_groups = shape
    statistic = draw(ssd * heads * headdim, sum(shape))
    arguments = (statistic, ssd, headdim, head_groups, dim_groups)
    published, expected = sort_and_cluster(*arguments), stated(statistic.astype(np.float64), *arguments[1:])
    assert [frozenset(channels.tolist()) for _, channels in published] == expected
    paper = [frozenset(channels.tolist()) for _, channels in of_paper(*arguments)]
    assert paper != expected  # which is what the variant is for
    place = published.channels.reshape(ssd, heads, headdim)  # permutations that belong together
    assert (place // headdim == published.heads.reshape(ssd, heads, 1)).all()
    assert (np.diff(statistic[place], axis=-1) >= 0).all()


@pytest.mark.parametrize(
    ("statistic", "shape", "why"),
    [
        (np.ones(4 * 16), (1, 16, 2, 4), "clusters of positions"),
        (np.r_[np.zeros(16), draw(48, 0)], (1, 16, 2, 4), "a head has no value but 0"),
        (draw(60, 0), (1, 15, 2, 4), "headdim that dim_groups divides"),
        (draw(16, 0), (1, 16, 1, 4), "at least 2 heads"),
    ],
)
def test_where_the_code_stops_one_line_says_so(statistic: np.ndarray, shape: tuple[int, ...], why: str) -> None:
    with pytest.raises(UsageError, match=f"{why}.*grouping.variant=paper") as error:
        sort_and_cluster(statistic, *shape)
    assert "\n" not in str(error.value)


def test_the_knob_chooses() -> None:
    assert granularity._variant("published") is sort_and_cluster
    assert granularity._variant("paper") is of_paper
    with pytest.raises(UsageError, match=r"grouping.variant.*paper.*published"):
        knobs.Grouping(variant="code")
