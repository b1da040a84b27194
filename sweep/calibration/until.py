"""Calibrating until the scales are known well enough: after how many samples to look, and when to stop.

What is looked at is the relative standard error of every scale, told from the scatter between folds. It is looked at
after a few samples a fold, and then whenever there are twice as many (`boundaries.counts`), so that a calibration is
looked at a few times, not after every sample. Calibrations of these numbers of samples go on from each other
(`growth`), and the last of them is the very one of calibration.samples=N.

Why stopping does not spoil the errors. A mean over folds and the scatter between them are independent where folds
scatter normally, and nearly so else: a rule that reads the scatter alone says nothing of whether the estimate is too
large or too small, so that it stays unbiased (Stein, Annals of Mathematical Statistics 16, 1945; Chow & Robbins, ibid.
36, 1965). What a rule does choose is scatter that happens to be small. Against that:

* eight folds at least (`knobs.SURE`), since with fewer the scatter is too uncertain to be a reason;
* few looks, each of them at a scatter half of which is new;
* a look is believed together with the one before: an error counts as no less than the root mean square of itself and
  of what the one before foretold, its own over the square root of two. So one look alone never stops a calibration;
* errors are taken SAFETY times as large;
* many scales have to agree, while chance makes single ones look settled;
* intervals are Student's with the 4.6 degrees of freedom of heavy tails instead of seven
  (`sweep.compare.analysis.significance`).

tests/unit/calibration/test_until.py simulates it: intervals of 95 % cover no less than 93 % after stopping, also where
a single scale decides, the worst case, whose true error is up to a third larger than the one told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = 1  # of the rule: what it decided is stored
SAFETY = 1.1

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Goal:
    """tolerance: the relative standard error to be reached, by so large a share of the scales of quantized sites."""

    tolerance: float
    share: float


@dataclass(frozen=True, eq=False)
class Errors:
    """Relative standard errors of one cell. places: layer and site of each scale of a quantized site. scales: the error
    of each, float64 [scales]. loss: that of the predicted loss of all together, None where nothing is predicted."""

    places: Sequence[tuple[int, str]]
    scales: Floats
    loss: float | None = None


def _taken(now: Floats, before: Floats | None) -> Floats:
    """The errors that decide: now's, together with those of half as many samples; infinite where there are none."""
    if before is None or before.shape != now.shape:
        return np.full_like(now, np.inf)
    return np.maximum(now, np.sqrt((np.square(now) + np.square(before) / 2) / 2))


@dataclass(frozen=True)
class Look:
    """The errors of one cell after so many samples. All errors are relative standard errors; infinite where the folds
    tell none.

    settled: the share of its scales that are known well enough. error: the largest one of the share that was asked for.
    taken: the same as the rule takes it, together with the look before. worst, worst_layer, worst_site: the largest one
    of all. layers, layer_errors: the median of every layer.
    loss_error, loss_taken: of the predicted loss of all quantized sites together; None where nothing is predicted.
    differentiated: whether more samples would bring no more gradients, so that `loss_error` is left as it is."""

    samples: int
    cell: str
    settled: float
    error: float
    taken: float
    worst: float
    worst_layer: int
    worst_site: str
    layers: list[int] = field(default_factory=list)
    layer_errors: list[float] = field(default_factory=list)
    loss_error: float | None = None
    loss_taken: float | None = None
    differentiated: bool = True

    @classmethod
    def at(
        cls,
        samples: int,
        cell: str,
        goal: Goal,
        now: Errors,
        before: Errors | None = None,
        differentiated: bool = True,
    ) -> Look:
        """before: the errors of the same cell after half as many samples, where there was a look."""
        errors, worst = now.scales, int(now.scales.argmax())
        layer = np.array([number for number, _ in now.places])
        there = np.unique(layer)
        at = math.ceil(goal.share * len(errors)) - 1
        known = now.loss is not None
        return cls(
            samples,
            cell,
            float((SAFETY * errors <= goal.tolerance).mean()),
            float(np.sort(errors)[at]),
            float(np.sort(_taken(errors, before.scales if before else None))[at]),
            float(errors[worst]),
            *now.places[worst],
            there.tolist(),
            [float(np.median(errors[layer == number])) for number in there],
            now.loss,
            float(_taken(np.array(now.loss), np.array(before.loss) if before else None)) if known else None,
            differentiated,
        )

    def demand(self, goal: Goal) -> float:
        """The distance from the goal: 1 or less where no more samples are needed."""
        asked = [self.taken, *([self.loss_taken] if self.loss_taken is not None and not self.differentiated else [])]
        return SAFETY * max(asked) / goal.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, which knows no infinity: None stands for it."""
        return {name: _plain(value) for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Look:
        infinite = {name: math.inf for name in ("error", "taken", "worst") if raw[name] is None}
        if raw["loss_error"] is not None and raw["loss_taken"] is None:
            infinite["loss_taken"] = math.inf
        errors = [math.inf if error is None else error for error in raw["layer_errors"]]
        return cls(**{**raw, **infinite, "layer_errors": errors})


@dataclass(frozen=True)
class Decision:
    """The end of a calibration. question: the hash of what was asked. most: samples that it could have taken.
    cells: how many cells were asked for. looks: of the cell that was the most demanding, one for each number of
    samples, ascending."""

    question: str
    goal: Goal
    most: int
    cells: int
    looks: tuple[Look, ...]

    @property
    def last(self) -> Look:
        return self.looks[-1]

    @property
    def scales_known(self) -> bool:
        return SAFETY * self.last.error <= self.goal.tolerance

    @property
    def loss_known(self) -> bool | None:
        """None where nothing is predicted."""
        error = self.last.loss_error
        return None if error is None else SAFETY * error <= self.goal.tolerance

    def __str__(self) -> str:
        """One line: what was reached, and what was not."""
        last, goal = self.last, self.goal
        where = f" of {last.cell}, the most demanding of {self.cells} cells," if self.cells > 1 else ""
        said = f"{last.samples} of at most {self.most} samples: {last.settled:.0%} of the scales{where} are known to "
        said += f"{percent(goal.tolerance)} (asked: {goal.share:.0%}{'' if self.scales_known else '; not reached'})"
        if self.loss_known is None:
            return said
        missed = "" if self.loss_known else " (not reached)"
        if missed and last.differentiated and last.samples < self.most:
            missed = " (not reached; calibration.fisher allows no more gradients)"
        return f"{said}; predicted loss to {percent(last.loss_error or 0.0)}{missed}"

    def to_dict(self) -> dict[str, Any]:
        looks = [look.to_dict() for look in self.looks]
        return {
            "question": self.question,
            "tolerance": self.goal.tolerance,
            "share": self.goal.share,
            "most": self.most,
            "cells": self.cells,
            "scales_known": self.scales_known,
            "loss_known": self.loss_known,
            "looks": looks,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Decision:
        looks = tuple(Look.from_dict(look) for look in raw["looks"])
        return cls(raw["question"], Goal(raw["tolerance"], raw["share"]), raw["most"], raw["cells"], looks)


def percent(share: float) -> str:
    """1%, 0.5%, 12%."""
    return f"{100 * share:.3g}%"


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def most_demanding(looks: Iterable[Look], goal: Goal) -> Look:
    """The look that decides, of those at several cells after the same samples; of equal ones the first."""
    return max(looks, key=lambda look: (look.demand(goal), look.error))
