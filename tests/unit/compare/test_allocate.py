"""The allocation of bits against trying everything."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from sweep.compare.recipes import allocate
from sweep.compare.recipes.allocate import Knapsack, Option

BITS = (4, 6, 8)


def problem(seed: int, items: int = 7) -> tuple[list[list[Option]], list[int]]:
    """Costs from 1e-9 to 1, so that no absolute tolerance is small beside all of them."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(items):
        top = 10.0 ** rng.uniform(-8, 0)
        costs = sorted(top * rng.uniform(0.05, 1, len(BITS)), reverse=True)
        found.append([Option(float(c), b) for c, b in zip(costs, BITS, strict=True)])
    return found, [int(n) * 4096 for n in rng.choice([1, 6, 12], items)]


def every(items: list[list[Option]], values: list[int]) -> list[tuple[float, Fraction]]:
    total = sum(values)
    return [
        (math.fsum(o.cost for o in taken), Fraction(sum(v * o.bits for v, o in zip(values, taken, strict=True)), total))
        for taken in itertools.product(*items)
    ]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("bits", ["4", "4.7", "5.999", "6", "7.3", "8"])
def test_least_cost_within_the_bits(seed: int, bits: str) -> None:
    items, values = problem(seed)
    found = Knapsack(items, values).least_cost(Fraction(bits))
    assert found is not None
    best = min(cost for cost, used in every(items, values) if used <= Fraction(bits))
    assert found.cost == pytest.approx(best, rel=1e-14)
    assert found.bound == found.cost
    used = Fraction(sum(v * i[j].bits for v, i, j in zip(values, items, found.taken, strict=True)), sum(values))
    assert used <= Fraction(bits)
    assert found.bits == float(used)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("share", [0.0, 0.03, 0.4, 1.0])
def test_fewest_bits_within_the_cost(seed: int, share: float) -> None:
    items, values = problem(seed)
    possible = every(items, values)
    costs = sorted(cost for cost, _ in possible)
    budget = costs[0] * (costs[-1] / costs[0]) ** share
    found = Knapsack(items, values).fewest_bits(budget)
    assert found is not None
    assert found.cost <= budget
    fewest = min(used for cost, used in possible if cost <= budget)
    assert found.bits == float(fewest)
    assert found.bound == found.bits
    cheapest = min(cost for cost, used in possible if used <= fewest)
    assert found.cost == pytest.approx(cheapest, rel=1e-14)


def test_what_cannot_be() -> None:
    items, values = problem(0)
    assert Knapsack(items, values).least_cost(Fraction("3.99")) is None
    assert Knapsack(items, values).fewest_bits(min(cost for cost, _ in every(items, values)) * 0.999) is None


def test_costs_of_nothing() -> None:
    items = [[Option(0.0, 4), Option(0.0, 8)]] * 3
    found = Knapsack(items, [1, 2, 3]).fewest_bits(0.0)
    assert found is not None
    assert (found.cost, found.bits) == (0.0, 4.0)
    free = Knapsack(items, [1, 2, 3]).least_cost()
    assert free is not None
    assert free.bits == 4.0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("bits", ["4.5", "6", "7.3"])
def test_without_a_common_measure_the_gap_is_known(seed: int, bits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    items, values = problem(seed)
    values = [v + 101 * i for i, v in enumerate(values)]
    monkeypatch.setattr(allocate, "CELLS", 2_000)
    found = Knapsack(items, values).least_cost(Fraction(bits))
    assert found is not None
    best = min(cost for cost, used in every(items, values) if used <= Fraction(bits))
    assert found.bits <= float(bits)
    assert found.bound <= best * (1 + 1e-12) <= found.cost * (1 + 2e-12)
    fewest = Knapsack(items, values).fewest_bits(best)
    assert fewest is not None
    assert fewest.cost <= best
    assert fewest.bound <= float(min(used for cost, used in every(items, values) if cost <= best)) <= fewest.bits


def test_a_network_of_many_sites_is_solved_exactly() -> None:
    items, values = problem(1, items=512)
    found = Knapsack(items, values).least_cost(Fraction("5.5"))
    assert found is not None
    assert found.bound == found.cost
    more = Knapsack(items, values).fewest_bits(found.cost)
    assert more is not None
    assert more.bits <= found.bits <= 5.5
