from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.core.errors import UsageError
from sweep.quantization.sort_and_cluster import sort_and_cluster

SHAPES = [(1, 24, 64, 4, 4), (8, 16, 64, 4, 4), (2, 6, 10, 3, 4), (1, 4, 8, 4, 8), (1, 1, 8, 1, 2)]


def draw(ssd: int, heads: int, headdim: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, ssd * heads)  # three kinds of heads, so that there is something to find
    profile = np.sort(rng.lognormal(0, 1.5, (3, headdim)), axis=1)[kind]
    shuffled = rng.permuted(profile * rng.lognormal(0, 0.05, profile.shape), axis=1)
    return shuffled.ravel()


@pytest.mark.parametrize("shape", SHAPES)
def test_permutations_and_ranges(shape: tuple[int, ...]) -> None:
    ssd, heads, headdim, head_groups, dim_groups = shape
    statistic = draw(ssd, heads, headdim)
    grouping = sort_and_cluster(statistic, ssd, headdim, head_groups, dim_groups)
    np.testing.assert_array_equal(np.sort(grouping.channels), np.arange(len(statistic)))
    np.testing.assert_array_equal(np.sort(grouping.heads), np.arange(ssd * heads))
    assert grouping.head_ends.shape == (ssd, head_groups)
    assert grouping.dim_ends.shape == (ssd, head_groups, dim_groups)
    assert (grouping.head_ends[:, -1] == heads).all()
    assert (grouping.dim_ends[..., -1] == headdim).all()
    assert (np.diff(grouping.head_ends, prepend=0) > 0).all()
    assert (np.diff(grouping.dim_ends, prepend=0) > 0).all()
    # channels stay in their head, heads in their SSD group; within a head the statistic ascends
    place = grouping.channels.reshape(ssd, heads, headdim)
    assert (place // headdim == grouping.heads.reshape(ssd, heads, 1)).all()
    assert (grouping.heads.reshape(ssd, heads) // heads == np.arange(ssd)[:, None]).all()
    assert (np.diff(statistic[place], axis=-1) >= 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_groups_partition_the_channels(shape: tuple[int, ...]) -> None:
    ssd, heads, headdim, head_groups, dim_groups = shape
    groups = list(sort_and_cluster(draw(ssd, heads, headdim), ssd, headdim, head_groups, dim_groups))
    assert [place for place, _ in groups] == list(np.ndindex(ssd, head_groups, dim_groups))
    np.testing.assert_array_equal(np.sort(np.concatenate([c for _, c in groups])), np.arange(ssd * heads * headdim))


def test_heads_of_one_kind_share_a_group() -> None:
    rng = np.random.default_rng(1)
    kinds = np.array([0, 1, 2, 3] * 6)
    profiles = np.stack(
        [np.r_[np.full(60, 0.1), np.full(4, 9.0)], np.full(64, 1.0), np.linspace(0, 1, 64), np.geomspace(1e-3, 9, 64)]
    )
    statistic = (profiles[kinds] * rng.lognormal(0, 0.01, (24, 64)) * rng.lognormal(0, 2, (24, 1))).ravel()
    grouping = sort_and_cluster(statistic, 1, 64, 4, 4)
    for start, end in zip([0, *grouping.head_ends[0, :-1]], grouping.head_ends[0], strict=True):
        assert len(set(kinds[grouping.heads[start:end]])) == 1


def test_equal_to_quambas_code_for_one_cluster_of_heads() -> None:
    """With one cluster of heads the published code sees the same rows; written out again here from its steps."""
    from sklearn.cluster import KMeans

    statistic = draw(2, 6, 32)
    grouping = sort_and_cluster(statistic, 2, 32, 1, 4)
    for g in range(2):
        heads = np.sort(statistic.reshape(2, 6, 32)[g], axis=1)
        rows = (heads / np.linalg.norm(heads, axis=1, keepdims=True)).T
        label = KMeans(n_clusters=4, init=rows[::8], n_init=1).fit(rows).labels_
        np.testing.assert_array_equal(grouping.dim_ends[g, 0], np.cumsum(np.bincount(label)))


def test_places_are_clustered_from_starts_far_apart() -> None:
    """Nine channels of three magnitudes: from the first, the fourth and the seventh k-means tells the three apart; from
    the three first it would stop at one, two and the other six."""
    statistic = np.array([201.0, 1, 101, 0, 200, 100, 2, 102, 202])
    grouping = sort_and_cluster(statistic, 1, 9, 1, 3)
    assert grouping.dim_ends.tolist() == [[[3, 6, 9]]]
    assert grouping.channels.tolist() == [3, 1, 6, 5, 2, 7, 4, 0, 8]


@pytest.mark.parametrize("statistic", [np.zeros(128), np.ones(128), np.r_[np.zeros(127), 1.0]])
def test_degenerate_statistics_still_partition(statistic: np.ndarray) -> None:
    groups = list(sort_and_cluster(statistic, 1, 16, 4, 4))
    np.testing.assert_array_equal(np.sort(np.concatenate([c for _, c in groups])), np.arange(128))
    assert all(len(c) for _, c in groups)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_same_statistic_same_groups(seed: int) -> None:
    statistic = draw(1, 8, 16, seed)
    first, again = (sort_and_cluster(statistic.copy(), 1, 16, 4, 4) for _ in range(2))
    np.testing.assert_array_equal(first.channels, again.channels)
    np.testing.assert_array_equal(first.dim_ends, again.dim_ends)


def test_more_groups_than_heads() -> None:
    with pytest.raises(UsageError, match=r"head_groups=4 .* this model has 2 and 64"):
        sort_and_cluster(np.ones(128), 1, 64, 4, 4)
