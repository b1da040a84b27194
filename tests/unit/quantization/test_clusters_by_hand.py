"""Groups of channels of two variants, small enough to be found by eye."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from sweep.core.errors import UsageError
from sweep.quantization.published_clusters import sort_and_cluster as published
from sweep.quantization.sort_and_cluster import Grouping
from sweep.quantization.sort_and_cluster import sort_and_cluster as of_paper

# two kinds of heads of six channels, sorted: three small and three large values, two small and four large
P, Q = (1.0, 1.1, 1.2, 8.0, 8.1, 8.2), (1.0, 1.1, 8.0, 8.1, 8.2, 8.3)
TURN = np.array([3, 0, 5, 1, 4, 2])  # the place of each channel among the sorted ones: channels 1, 3, 5, 0, 4, 2
HEADS = [(P, 0.01), (Q, 1.0), (P, 100.0), (Q, 10.0), (Q, 0.001), (P, 1.0)]  # three in each of two SSD groups
STATISTIC = np.concatenate([factor * np.array(kind)[TURN] for kind, factor in HEADS]).astype(np.float32)


def places(head: int, *which: int) -> list[int]:
    return [6 * head + channel for channel in which]


@pytest.mark.parametrize(
    ("variant", "dim_ends"),
    [(of_paper, [[[3, 6], [2, 6]], [[2, 6], [3, 6]]]), (published, [[[3, 6], [3, 6]], [[2, 6], [3, 6]]])],
)
def test_heads_of_one_kind_are_together_whatever_their_size(
    variant: Callable[..., Grouping], dim_ends: list[list[list[int]]]
) -> None:
    """Heads 0 and 2 and head 1; heads 3 and 4 and head 5, in the order that Ward's clusters have. The paper cuts
    positions after the third in heads P and after the second in heads Q. The published code cuts the first two heads
    by rows 0 and 1 and the last by row 2: in the first SSD group Q by the row of a head P."""
    grouping = variant(STATISTIC, 2, 6, 2, 2)
    assert grouping.heads.tolist() == [0, 2, 1, 3, 4, 5]
    assert grouping.head_ends.tolist() == [[2, 3], [2, 3]]
    assert grouping.channels.tolist() == [c for head in (0, 2, 1, 3, 4, 5) for c in places(head, 1, 3, 5, 0, 4, 2)]
    assert grouping.dim_ends.tolist() == dim_ends
    listed = {place: channels.tolist() for place, channels in grouping}
    assert list(listed) == list(np.ndindex(2, 2, 2))
    assert listed[0, 0, 0] == [*places(0, 1, 3, 5), *places(2, 1, 3, 5)]
    assert listed[0, 0, 1] == [*places(0, 0, 4, 2), *places(2, 0, 4, 2)]
    assert listed[0, 1, 0] == places(1, 1, 3, 5)[: dim_ends[0][1][0]]
    assert listed[1, 0, 1] == [*places(3, 5, 0, 4, 2), *places(4, 5, 0, 4, 2)]
    assert listed[1, 1, 1] == places(5, 0, 4, 2)


def test_more_groups_than_there_are() -> None:
    for arguments, heads, headdim in (((2, 6, 4, 2), 3, 6), ((2, 6, 2, 7), 3, 6)):
        _, _, head_groups, dim_groups = arguments
        message = (
            f"granularity=group with grouping.head_groups={head_groups} and grouping.dim_groups={dim_groups} needs as "
            f"many heads in an SSD group and channels in a head; this model has {heads} and {headdim}"
        )
        with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
            of_paper(STATISTIC, *arguments)


def ends(values: list[float], clusters: int) -> list[int]:
    """Of one head with these channels."""
    return list(of_paper(np.array(values, np.float32), 1, len(values), 1, clusters).dim_ends[0, 0].tolist())


def test_positions_of_one_head() -> None:
    assert ends([1, 5, 5, 5, 9, 9, 9], 3) == [1, 4, 7]  # from 1, 5 and 9, the first, third and fifth
    assert ends([0, 1, 100, 101, 102, 103, 200, 201, 202], 3) == [2, 6, 9]  # from 0, 1 and 100 it would stop early
    assert ends([1, 2, 3], 3) == [1, 2, 3]
    assert ends([1, 2, 3], 1) == [3]


def test_positions_that_form_no_ranges_are_cut_into_equal_parts() -> None:
    """Seven equal ones are no three clusters: 7/3, 14/3, 7. Of four 1, three 5 and two 9, k-means starts at 1, 1 and 5
    and gives the second start, which has nothing, to the 9: clusters 0, 2 and 1, which are in no order."""
    assert ends([1] * 7, 3) == [2, 4, 7]
    assert ends([1, 1, 1, 1, 5, 5, 5, 9, 9], 3) == [3, 6, 9]
    assert ends([0] * 6, 2) == [3, 6]


def test_equals_keep_their_order() -> None:
    grouping = of_paper(np.ones(3 * 64, np.float32), 1, 64, 1, 2)
    assert grouping.channels.tolist() == list(range(192))
    assert grouping.heads.tolist() == [0, 1, 2]
    pattern = np.tile([1.0, 2.0], 64)
    assert of_paper(pattern, 1, 128, 1, 2).channels.tolist() == [*range(0, 128, 2), *range(1, 128, 2)]
    two = of_paper(np.tile([1.0, 2.0, 1.0, 9.0], 64), 1, 2, 2, 1).heads.tolist()
    assert sorted(two[:64]) == two[:64]
    assert sorted(two[64:]) == two[64:]
    assert {two[0] % 2, two[64] % 2} == {0, 1}


def test_as_many_groups_as_heads() -> None:
    grouping = of_paper(STATISTIC, 2, 6, 3, 2)
    assert grouping.heads.tolist() == [0, 1, 2, 3, 4, 5]
    assert grouping.head_ends.tolist() == [[1, 2, 3], [1, 2, 3]]
    assert grouping.dim_ends.tolist() == [[[3, 6], [2, 6], [3, 6]], [[2, 6], [2, 6], [3, 6]]]
    assert of_paper(STATISTIC[:12], 1, 6, 2, 2).head_ends.tolist() == [[1, 2]]


def test_three_kinds_of_heads_in_three_groups() -> None:
    kinds = (P, Q, P, (1.0, 8.0, 8.1, 8.2, 8.3, 8.4))
    grouping = of_paper(np.concatenate(kinds), 1, 6, 3, 2)
    assert sorted(map(sorted, np.split(grouping.heads, grouping.head_ends[0][:2]))) == [[0, 2], [1], [3]]


@pytest.mark.parametrize("size", [1e25, 1e-25])
def test_heads_of_any_size(size: float) -> None:
    """Their squares are no numbers of 32 bits."""
    grouping = of_paper(STATISTIC * np.float32(size), 2, 6, 2, 2)
    assert grouping.heads.tolist() == [0, 2, 1, 3, 4, 5]
    assert grouping.dim_ends.tolist() == [[[3, 6], [2, 6]], [[2, 6], [3, 6]]]


@pytest.mark.filterwarnings("error")
def test_a_head_of_zeros_is_a_kind_of_its_own() -> None:
    statistic = STATISTIC.copy()
    statistic[6:12] = 0
    grouping = of_paper(statistic, 2, 6, 2, 2)
    assert sorted(map(sorted, np.split(grouping.heads[:3], grouping.head_ends[0][:1]))) == [[0, 2], [1]]


def few(least: int, heads: int, headdim: int, head_groups: int, dim_groups: int) -> str:
    return (
        f"it needs at least {least} heads in an SSD group and a headdim that dim_groups divides; this model has "
        f"{heads} heads and headdim {headdim}; head_groups={head_groups} dim_groups={dim_groups}"
    )


def no_ranges(group: int, clusters: int) -> str:
    return f"in SSD group {group}, head group 0, its clusters of positions are not {clusters} ranges"


@pytest.mark.parametrize(
    ("statistic", "shape", "why"),
    [
        (STATISTIC, (2, 6, 4, 2), few(4, 3, 6, 4, 2)),
        (STATISTIC, (6, 6, 1, 2), few(2, 1, 6, 1, 2)),
        (STATISTIC, (2, 6, 2, 4), few(2, 3, 6, 2, 4)),
        (np.r_[STATISTIC[:30], np.zeros(6)], (2, 6, 2, 2), "a head has no value but 0"),
        (np.ones(36), (2, 6, 2, 2), no_ranges(0, 2)),
        (np.r_[STATISTIC[:18], np.ones(18)], (2, 6, 2, 2), no_ranges(1, 2)),
        (np.tile([1, 1, 1, 1, 5, 5, 5, 9, 9], 2), (1, 9, 1, 3), no_ranges(0, 3)),
    ],
)
def test_where_the_published_code_stops(statistic: np.ndarray, shape: tuple[int, ...], why: str) -> None:
    message = f"grouping.variant=published: Quamba's code stops here: {why}. Use grouping.variant=paper"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        published(statistic.astype(np.float32), *shape)


def test_the_published_code_takes_two_heads_and_small_numbers() -> None:
    grouping = published(STATISTIC[:12] * np.float32(1e-3), 1, 6, 2, 2)
    assert sorted(grouping.heads.tolist()) == [0, 1]
    assert grouping.head_ends.tolist() == [[1, 2]]
