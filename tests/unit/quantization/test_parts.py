"""Which channels share a scale and how such parts are numbered, by hand."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from sweep.core.errors import UsageError
from sweep.quantization import granularity
from sweep.quantization.granularity import by_channel, by_group, grouped, name, split
from sweep.quantization.site_scales import NOWHERE
from sweep.quantization.sort_and_cluster import sort_and_cluster
from sweep.quantization.statistics import Statistics

MAMBA2 = {"family": "mamba2", "n_groups": 2, "headdim": 2, "n_heads": 4}  # 8 channels of x, two heads per SSD group


@dataclass(frozen=True)
class Clusters:
    head_groups: int = 1
    dim_groups: int = 2
    variant: str = "paper"


def observed(channels: dict[str, int], geometry: dict[str, object]) -> Statistics:
    """Two folds per site, whose channels get louder from the first to the last in the second fold."""
    sites = {
        (layer, site): SimpleNamespace(
            channel_absmax=np.ones((2, n)), channel_text_mean_max=np.stack([np.zeros(n), np.arange(1.0, n + 1)])
        )
        for layer in (0, 1)
        for site, n in channels.items()
    }
    return Statistics(sites, geometry)  # type: ignore[arg-type]


def places(site: str, channels: int, geometry: dict[str, object]) -> list[tuple[int, int, int]]:
    parts = by_channel(site, channels, geometry)
    assert [members.tolist() for _, members in parts] == [[c] for c in range(channels)]
    assert all(isinstance(number, int) for place, _ in parts for number in place)  # names are made of them
    return [place for place, _ in parts]


def test_a_channel_of_x_has_the_numbers_of_its_group_head_and_place() -> None:
    by_hand = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1)]
    assert places("x_conv_out", 8, MAMBA2) == by_hand
    assert places("out_proj_in", 8, MAMBA2) == by_hand


def test_channels_of_an_mlp_stand_in_front_of_the_heads() -> None:
    assert places("out_proj_in", 11, MAMBA2)[:5] == [(-1, -1, 0), (-1, -1, 1), (-1, -1, 2), (0, 0, 0), (0, 0, 1)]


def test_a_channel_of_b_has_the_numbers_of_its_group_and_state() -> None:
    assert places("B_conv_out", 6, MAMBA2) == [(0, -1, 0), (0, -1, 1), (0, -1, 2), (1, -1, 0), (1, -1, 1), (1, -1, 2)]


def test_elsewhere_a_channel_has_its_own_number() -> None:
    assert places("in_proj_in", 3, MAMBA2) == [(-1, -1, 0), (-1, -1, 1), (-1, -1, 2)]
    assert places("x_conv_out", 2, {"family": "mamba1", "n_groups": 1}) == [(-1, -1, 0), (-1, -1, 1)]
    assert NOWHERE == -1


def test_groups_of_b_and_c_are_the_ssd_groups() -> None:
    grouping = sort_and_cluster(np.arange(1.0, 9), 2, 2, 1, 2)
    for site in ("B_conv_out", "C_conv_pre"):
        parts = grouped(site, 6, MAMBA2, grouping)
        assert parts is not None
        assert [(place, members.tolist()) for place, members in parts] == [
            ((0, -1, -1), [0, 1, 2]),
            ((1, -1, -1), [3, 4, 5]),
        ]
    assert grouped("x_conv_in", 8, MAMBA2, grouping) is None
    parts = grouped("x_conv_out", 8, MAMBA2, grouping)
    assert parts is not None
    assert [(place, members.tolist()) for place, members in parts] == [
        ((0, 0, 0), [0, 2]),
        ((0, 0, 1), [1, 3]),
        ((1, 0, 0), [4, 6]),
        ((1, 0, 1), [5, 7]),
    ]


def test_each_granularity_splits_the_sites_it_speaks_of() -> None:
    channels = {"in_proj_in": 3, "x_conv_in": 8, "x_conv_out": 8, "B_conv_out": 6}
    statistics = observed(channels, MAMBA2)
    assert split(statistics, "tensor", Clusters()) == ({}, {})
    parts, groupings = split(statistics, "channel", Clusters())
    assert {key: len(p) for key, p in parts.items()} == {(layer, s): n for layer in (0, 1) for s, n in channels.items()}
    assert groupings == {}
    parts, groupings = split(statistics, "group", Clusters())
    assert {key: len(p) for key, p in parts.items()} == {
        (layer, s): n for layer in (0, 1) for s, n in (("x_conv_out", 4), ("B_conv_out", 2))
    }
    assert list(groupings) == [0, 1]


def test_heads_are_grouped_by_the_loudest_text_of_any_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def cluster(*given: object) -> str:
        asked.append(given)
        return "grouping"

    monkeypatch.setattr(granularity, "sort_and_cluster", cluster)
    statistics = observed({"x_conv_in": 8, "x_conv_out": 8}, MAMBA2)
    assert by_group(statistics, Clusters(3, 4)) == {0: "grouping", 1: "grouping"}
    statistic, *rest = asked[0]
    assert statistic.tolist() == list(range(1, 9))
    assert rest == [2, 2, 3, 4]  # SSD groups, headdim, groups of heads, of places


def test_what_cannot_be_grouped_says_why() -> None:
    sites = {"x_conv_out": 8}
    with pytest.raises(UsageError) as refused:
        by_group(observed(sites, {"family": "mamba1", "n_groups": 1}), Clusters())
    assert str(refused.value) == (
        "granularity=group clusters the heads of Mamba-2; this model is mamba1, which has none. "
        "Use granularity=channel or granularity=tensor"
    )
    with pytest.raises(UsageError, match=r"^layer 0: granularity=group with grouping\.head_groups=3 "):
        by_group(observed(sites, MAMBA2), Clusters(head_groups=3))


def test_the_variant_is_whose_algorithm_it_is() -> None:
    """One head in an SSD group: the paper's groups it, Quamba's code stops."""
    statistics = observed({"x_conv_out": 4}, {"family": "mamba2", "n_groups": 2, "headdim": 2, "n_heads": 2})
    assert list(by_group(statistics, Clusters())) == [0, 1]
    with pytest.raises(UsageError, match="Quamba's code stops here"):
        by_group(statistics, Clusters(variant="published"))


def test_a_group_is_named_by_its_place() -> None:
    assert name("x_conv_out", (0, 1, 2)) == "x_conv_out[0,1,2]"
