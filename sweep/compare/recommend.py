"""Which setting to take: best on average, best per layer, and what one choice for all layers costs.

Judged by SQNR averaged, in dB and with equal weight, over layers and the sites a deployment quantizes (the
input of SiLU is not one). That is a proxy: where cells were evaluated, perplexity has the last word.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from sweep.compare.evidence import evidence
from sweep.compare.query import Comparison
from sweep.compare.student import Floats, holm, p_values
from sweep.compare.verdicts import LEVEL, NEGLIGIBLE_DB

CONTEXTS = 12  # for which runners-up are tested; more would be no summary
RUNNERS_UP = 8


@dataclass(frozen=True)
class Runner:
    """A setting, its mean SQNR, and what it loses to the best one (dB, with its standard error or NaN).

    tied: the loss is within its error, or below what matters."""

    setting: str
    cell: int
    sqnr_db: float
    loss_db: float
    loss_se: float
    tied: bool


@dataclass(frozen=True)
class LayerChoice:
    layer: int
    setting: str
    sqnr_db: float
    loss_db: float  # what the best global setting loses here


@dataclass(frozen=True)
class Advice:
    """runners[0] is the recommended setting. layer_loss_db: mean loss of one global choice against the best
    choice for every layer; site_loss_db: against the best one for every layer and site."""

    context: str
    runners: tuple[Runner, ...]
    layers: tuple[LayerChoice, ...]
    layer_loss_db: float
    site_loss_db: float
    by_perplexity: str | None

    @property
    def best(self) -> Runner:
        return self.runners[0]

    @property
    def worst_layer(self) -> LayerChoice:
        return max(self.layers, key=lambda choice: choice.loss_db)

    @property
    def settings_by_layer(self) -> int:
        """How many different settings are best in some layer."""
        return len({choice.setting for choice in self.layers})


def recommend(runs: Comparison) -> list[Advice]:
    """One piece of advice per model, calibration, format and granularity with more than one setting."""
    groups: dict[tuple[str, ...], dict[str, int]] = defaultdict(dict)
    for number, cell in enumerate(runs.listed):
        group = groups[(cell.model, *cell.calibration, cell.format, cell.granularity)]
        earlier = group.get(cell.setting)
        if earlier is None or runs.listed[earlier].finished <= cell.finished:
            group[cell.setting] = number
    contexts = [list(group.values()) for group in groups.values() if len(group) > 1]
    grid = _grid(runs)
    advice = [_advise(runs, numbers, grid) for numbers in contexts[:CONTEXTS]]
    return [a for a in advice if a]


def _grid(runs: Comparison) -> dict[int, tuple[Floats, Floats]]:
    """cell → (codes of layer and site, SQNR), finite ones at deployed sites, in one order for all cells."""
    sites = [site for (site,) in runs.sql("SELECT DISTINCT site FROM points ORDER BY site")]
    rows = runs.arrays(
        f"SELECT cell, layer * {len(sites)} + list_position(?, site) - 1 AS code, sqnr_db FROM points "
        "WHERE isfinite(sqnr_db) AND NOT ends_with(site, '_pre') ORDER BY cell, code",
        [sites],
    )
    cells, starts = np.unique(rows["cell"], return_index=True)
    stops = [*starts[1:], len(rows["cell"])]
    return {
        int(cell): (rows["code"][a:b] // len(sites) * 1000 + rows["code"][a:b] % len(sites), rows["sqnr_db"][a:b])
        for cell, a, b in zip(cells, starts, stops, strict=True)
    }


def _advise(runs: Comparison, numbers: list[int], grid: dict[int, tuple[Floats, Floats]]) -> Advice | None:
    numbers = [n for n in numbers if n in grid]
    if len(numbers) < 2:
        return None
    codes = grid[numbers[0]][0]
    for n in numbers[1:]:
        codes = np.intersect1d(codes, grid[n][0], assume_unique=True)
    if not len(codes):
        return None
    table = np.stack([grid[n][1][np.isin(grid[n][0], codes)] for n in numbers])  # [setting, row]
    order = np.argsort(-table.mean(1), kind="stable")
    best = int(order[0])
    names = [runs.listed[n].setting for n in numbers]
    layer = (codes // 1000).astype(int)
    choices = []
    for number in np.unique(layer):
        here = table[:, layer == number].mean(1)
        top = int(here.argmax())
        choices.append(LayerChoice(int(number), names[top], float(here[top]), float(here[top] - here[best])))
    cell = runs.listed[numbers[0]]
    return Advice(
        f"{cell.model} · {cell.format} · {cell.granularity}",
        _runners(runs, [numbers[i] for i in order], [float(table[i].mean()) for i in order]),
        tuple(choices),
        float(np.mean([c.loss_db for c in choices])),
        float(np.mean(table.max(0) - table[best])),
        _by_perplexity(runs, numbers),
    )


def _runners(runs: Comparison, numbers: list[int], means: list[float]) -> tuple[Runner, ...]:
    tested = numbers[1 : 1 + RUNNERS_UP]
    found = [e.overall for e in evidence(runs, [(numbers[0], n) for n in tested], [True] * len(tested))]
    folds = runs.listed[numbers[0]].folds
    errors = [error for _, error in found]
    errors += [float("nan")] * (len(numbers) - 1 - len(tested))
    losses = [means[0] - mean for mean in means]
    p = holm(p_values(np.array(losses[1:]), np.array(errors), max(folds - 1, 1)))
    runners = [Runner(runs.listed[numbers[0]].setting, numbers[0], means[0], 0.0, 0.0, False)]
    for number, mean, loss, error, adjusted in zip(numbers[1:], means[1:], losses[1:], errors, p, strict=True):
        tied = bool(loss < NEGLIGIBLE_DB or adjusted > LEVEL)
        runners.append(Runner(runs.listed[number].setting, number, mean, loss, error, tied))
    return tuple(runners)


def _by_perplexity(runs: Comparison, numbers: list[int]) -> str | None:
    measured = {
        runs.listed[n].setting: evaluation["perplexity"]
        for n in numbers
        if (evaluation := runs.listed[n].evaluation) and evaluation.get("perplexity") is not None
    }
    return min(measured, key=lambda setting: measured[setting]) if len(measured) > 1 else None
