"""The choice of an option for each item: least cost in all within a number of bits, or fewest bits within a cost.

A multiple-choice knapsack, solved by dynamic programming over the bits (H. Kellerer, U. Pferschy, D. Pisinger, Knapsack
Problems, 2004, section 11.5). The sites of a network have few sizes with a large common measure, in which this is
exact. Where the measure is too small, bits are rounded up to a larger one, which keeps every budget; with bits rounded
down the same program gives the bound that no allocation can beat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

CELLS = 100_000_000  # of the dynamic program: a second or two, and as many bytes


@dataclass(frozen=True)
class Option:
    """One of an item's: what it costs (nats per token), and how many bits a value takes."""

    cost: float
    bits: int


Items = Sequence[Sequence[Option]]


@dataclass(frozen=True, eq=False)
class Allocation:
    """taken: of each item the position of its option. cost: their sum. bits: on average over values.
    bound: no allocation within the budget has less of what was made least, which is `cost`, or `bits`."""

    taken: list[int]
    cost: float
    bits: float
    bound: float


class Knapsack:
    """items: the options of each. values: how many values each has."""

    def __init__(self, items: Items, values: Sequence[int]) -> None:
        self._items, self._values, self._total = items, values, sum(values)
        least = [min(option.bits for option in options) for options in items]
        self._fewest = sum(value * bits for value, bits in zip(values, least, strict=True))
        above = [[v * (o.bits - b) for o in options] for v, b, options in zip(values, least, items, strict=True)]
        most = sum(max(loads) for loads in above)
        self._unit = max(math.gcd(*(load for loads in above for load in loads)), most * len(items) // CELLS, 1)
        self._up = [[-(-load // self._unit) for load in loads] for loads in above]
        self._down = [[load // self._unit for load in loads] for loads in above]
        self._exact = self._up == self._down

    @property
    def fewest(self) -> float:
        """The bits that it takes at least, on average over values."""
        return self._fewest / self._total

    def least_cost(self, bits: Fraction | None = None) -> Allocation | None:
        """The least cost within `bits` on average (None: any number); None where that is too few."""
        if bits is None:
            taken = [min(range(len(o)), key=lambda j, o=o: (o[j].cost, o[j].bits)) for o in self._items]  # type: ignore[misc]
            return self._allocation(taken)
        budget = math.floor(bits * self._total) - self._fewest
        if budget < 0:
            return None
        room = min(budget // self._unit, sum(map(max, self._up)))
        best, choices = self._program(self._up, room)
        allocation = self._allocation(self._trace(choices, int(best.argmin())))
        if self._exact:
            return allocation
        bound = float(self._program(self._down, room)[0].min())
        return Allocation(allocation.taken, allocation.cost, allocation.bits, bound)

    def fewest_bits(self, cost: float) -> Allocation | None:
        """The fewest bits within `cost`, and with so many the least cost; None where it cannot be."""
        cheapest = self.least_cost()
        assert cheapest is not None
        if cheapest.cost > cost:
            return None
        best, choices = self._program(self._up, sum(map(max, self._up)))
        almost = cost * (1 + 1e-12)  # sums are rounded
        tried = (self._allocation(self._trace(choices, int(load))) for load in np.flatnonzero(best <= almost))
        fewest = next((allocation for allocation in tried if allocation.cost <= cost), cheapest)
        bound = fewest.bits
        if not self._exact:
            low, _ = self._program(self._down, sum(map(max, self._down)))
            bound = (self._fewest + int(np.flatnonzero(low <= almost)[0]) * self._unit) / self._total
        return Allocation(fewest.taken, fewest.cost, fewest.bits, bound)

    def _program(
        self, loads: Sequence[Sequence[int]], room: int
    ) -> tuple[NDArray[np.float64], list[NDArray[np.uint8]]]:
        """The least cost at each load 0 … room, infinite where there is none, and item by item the option it takes."""
        best = np.full(room + 1, np.inf)
        best[0] = 0.0
        choices = []
        for options, heavy in zip(self._items, loads, strict=True):
            reached, chosen = np.full(room + 1, np.inf), np.zeros(room + 1, np.uint8)
            for j, (option, load) in enumerate(zip(options, heavy, strict=True)):
                if load <= room:
                    cost = best[: room + 1 - load] + option.cost
                    better = cost < reached[load:]
                    reached[load:][better], chosen[load:][better] = cost[better], j
            best = reached
            choices.append(chosen)
        return best, choices

    def _trace(self, choices: Sequence[NDArray[np.uint8]], load: int) -> list[int]:
        taken: list[int] = []
        for chosen, loads in zip(reversed(choices), reversed(self._up), strict=True):
            taken.append(int(chosen[load]))
            load -= loads[taken[-1]]
        return taken[::-1]

    def _allocation(self, taken: list[int]) -> Allocation:
        chosen = [options[j] for options, j in zip(self._items, taken, strict=True)]
        cost = math.fsum(option.cost for option in chosen)
        bits = sum(value * option.bits for value, option in zip(self._values, chosen, strict=True)) / self._total
        return Allocation(taken, cost, bits, cost)
