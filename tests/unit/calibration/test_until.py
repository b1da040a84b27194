"""When calibrating until sure stops, and that stopping does not spoil the errors."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from sweep.calibration.boundaries import counts, cut
from sweep.calibration.tokens import Outline
from sweep.calibration.until import SAFETY, Decision, Errors, Goal, Look, most_demanding
from sweep.compare.analysis.significance import freedom, quantile
from sweep.quantization.methods.registry import jackknife_error
from sweep.quantization.replicates import move, rate_of_quantile

Floats = NDArray[np.float64]
GOAL = Goal(0.01, 0.9)


def outline(lengths: tuple[int, ...]) -> Outline:
    return Outline(lengths, ("",) * (len(lengths) + 1))


def preimage(folds: int = 8, size: int = 8, backend: str = "transformers cpu") -> dict[str, object]:
    return {"folds": folds, "batch_size": size, "backend": backend}


@pytest.mark.parametrize(
    ("most", "folds", "size", "expected"),
    [
        (512, 8, 8, [64, 128, 256, 512]),
        (500, 8, 8, [64, 128, 256, 500]),
        (64, 8, 8, [64]),
        (20, 8, 8, [20]),
        (200, 8, 1, [32, 64, 128, 200]),  # four samples a fold at least
        (200, 8, 3, [48, 96, 192, 200]),
    ],
)
def test_samples_double_in_whole_batches(most: int, folds: int, size: int, expected: list[int]) -> None:
    assert counts(outline((9,) * most), preimage(folds, size)) == expected
    assert counts(outline((9,) * most), preimage(folds, size, "transformers cuda")) == expected


def test_texts_of_many_lengths_can_be_gone_on_from_too() -> None:
    rng = np.random.default_rng(0)
    text = outline(tuple(np.repeat(rng.integers(5, 9, 100), 5).tolist()))
    looks = counts(text, preimage(8, 4))
    assert looks[-1] == 500
    assert looks == sorted(set(looks))
    assert not any(cut(n, text, preimage(8, 4)) for n in looks[:-1])


def look(samples: int, *errors: float, cell: str = "a", loss: float | None = None, differentiated: bool = True) -> Look:
    """One that is much like the one before, at half as many samples."""
    places = [(i, "x_conv_out") for i in range(len(errors))]
    now = Errors(places, np.array(errors), loss)
    before = Errors(places, np.sqrt(2) * np.array(errors), loss and loss * np.sqrt(2))
    return Look.at(samples, cell, GOAL, now, before, differentiated)


def test_a_share_of_the_scales_has_to_be_known() -> None:
    good = 0.0099 / SAFETY
    assert look(64, *[good] * 9, 0.5).demand(GOAL) <= 1
    one = look(64, *[good] * 8, 0.5, 0.2)
    assert one.demand(GOAL) > 1
    assert (one.settled, one.worst, one.worst_layer) == (0.8, 0.5, 8)
    assert look(64, *[0.0099] * 10).demand(GOAL) > 1  # errors of errors are allowed for


def test_one_look_alone_does_not_stop() -> None:
    places, good = [(0, "x_conv_out")], 0.008
    now = Errors(places, np.array([good]))
    assert Look.at(64, "a", GOAL, now).demand(GOAL) == np.inf
    for before, stops in ((good, True), (2 * good, False)):  # half as many samples foretold 1/sqrt(2) of it
        assert (Look.at(64, "a", GOAL, now, Errors(places, np.array([before]))).demand(GOAL) <= 1) is stops


def test_predicted_loss_counts_as_long_as_more_can_be_known_of_it() -> None:
    small = [0.001] * 10
    assert look(64, *small, loss=0.03, differentiated=False).demand(GOAL) > 1
    done = look(64, *small, loss=0.03, differentiated=True)
    assert done.demand(GOAL) <= 1
    decided = Decision("q", GOAL, 512, 1, (done,))
    assert decided.loss_known is False
    assert "predicted loss to 3% (not reached; calibration.fisher allows no more gradients)" in str(decided)


def test_the_most_demanding_cell_decides() -> None:
    easy, hard = look(64, *[0.001] * 10), look(64, *[0.02] * 10, cell="b")
    assert most_demanding([easy, hard], GOAL).cell == "b"
    decided = Decision("q", GOAL, 64, 2, (hard,))
    expected = "64 of at most 64 samples: 0% of the scales of b, the most demanding of 2 cells, are known to 1% "
    assert str(decided) == f"{expected}(asked: 90%; not reached)"


def test_what_is_recorded_is_read_back() -> None:
    looks = look(64, np.inf, *[0.02] * 9), look(128, *[0.001] * 10, loss=0.5)
    decided = Decision("q", GOAL, 512, 3, looks)
    assert Decision.from_dict(decided.to_dict()) == decided


# --- stopping and errors: numbers of samples, laws, methods, tolerances and seeds were chosen before looking ----------

FOLDS, TOKENS = 8, 64
STEPS = (32, 64, 128, 256, 512)
REPEATS = 400
LAWS = ("student", "lognormal", "laplace")
ALPHAS = {"percentile 0.99": 0.99, "percentile 0.9995": 0.9995, "minmax": 1.0, "mean": 0.0}
STUDENT = quantile(0.95, freedom(FOLDS))


@cache
def simulated(law: str) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Of every method the answers and their relative errors, [REPEATS, STEPS]. Samples have a loudness each, so that
    values come in clusters, as those of a network do."""
    rng = np.random.default_rng([21, LAWS.index(law)])
    size = (STEPS[-1], TOKENS)
    answers, errors = ({name: np.empty((REPEATS, len(STEPS))) for name in ALPHAS} for _ in range(2))
    for repeat in range(REPEATS):
        x = {
            "student": rng.standard_t(3, size),
            "lognormal": rng.lognormal(0, 1.2, size),
            "laplace": rng.laplace(size=size),
        }[law]
        x = np.abs(x) * np.exp(0.3 * rng.standard_normal((size[0], 1)))
        for step, samples in enumerate(STEPS):
            folds = x[:samples].reshape(samples // FOLDS, FOLDS, TOKENS).transpose(1, 0, 2).reshape(FOLDS, -1)
            for name, alpha in ALPHAS.items():
                whole, each, rate = _answer(folds, alpha)
                moved = move(np.array([whole]), each[None], rate)
                answers[name][repeat, step] = np.log(whole)
                errors[name][repeat, step] = jackknife_error(moved)[0] / whole
    return answers, errors


def _answer(folds: Floats, alpha: float) -> tuple[float, Floats, float]:
    if alpha == 0:
        return float(folds.mean()), folds.mean(1), 1 / FOLDS
    if alpha == 1:
        return float(folds.max()), folds.max(1), 1.0
    rate = rate_of_quantile((1 - alpha) * folds.size, FOLDS)
    return float(np.quantile(folds, alpha)), np.quantile(folds, alpha, axis=1), rate


def stopped(errors: Floats, goal: Goal, scales: int = 1) -> NDArray[np.int64]:
    """The step where each repetition stops that has so many of the rows for its scales."""
    places = [(0, "x")] * scales
    steps = []
    for rows in range(0, len(errors), scales):
        looks = [Errors(places, errors[rows : rows + scales, step]) for step in range(len(STEPS))]
        pairs = zip(looks, [None, *looks], strict=False)
        demands = [Look.at(0, "", goal, now, before).demand(goal) for now, before in pairs]
        steps += [next((step for step, demand in enumerate(demands) if demand <= 1), len(STEPS) - 1)] * scales
    return np.array(steps)


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("method", ALPHAS)
def test_intervals_cover_after_stopping(law: str, method: str) -> None:
    """One scale alone decides, the worst case, at tolerances that are reached at each of the steps."""
    answers, errors = (found[method] for found in simulated(law))
    rows, inside = np.arange(REPEATS), []
    for step in range(len(STEPS)):
        at = stopped(errors, Goal(SAFETY * float(np.median(errors[:, step])), 1.0))
        truth = answers.mean(0)[at]
        inside.append(np.abs(answers[rows, at] - truth) <= STUDENT * errors[rows, at])
    assert np.mean(inside) >= 0.93, np.mean(inside, axis=1)
    assert np.mean(inside, axis=1).min() >= 0.92  # of 400 each, one standard error is 1.2 %


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("method", ["percentile 0.99", "percentile 0.9995", "mean"])
def test_answers_stay_unbiased_and_errors_true(law: str, method: str) -> None:
    """Where an answer stands after stopping is where it stands without; and errors are not those that are small by
    chance: where a single scale decides, the worst case, true ones are at most a third larger."""
    answers, errors = (found[method] for found in simulated(law))
    rows = np.arange(REPEATS)
    for step in range(1, len(STEPS) - 1):
        at = stopped(errors, Goal(SAFETY * float(np.median(errors[:, step])), 1.0))
        off = answers[rows, at] - answers.mean(0)[at]
        assert abs(off.mean()) <= 4 * off.std() / np.sqrt(REPEATS)
        true = answers.std(0)[at]
        assert np.sqrt(np.square(true).mean() / np.square(errors[rows, at]).mean()) <= 4 / 3


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("method", ALPHAS)
def test_many_scales_decide_better_than_one(law: str, method: str) -> None:
    """Forty scales of one calibration, of which 95 % have to be known: their errors are true after stopping."""
    answers, errors = (found[method] for found in simulated(law))
    at, rows = stopped(errors, Goal(1.8 * float(np.median(errors[:, 2])), 0.95), 40), np.arange(REPEATS)
    assert at.mean() < len(STEPS) - 1.5
    off, true = answers[rows, at] - answers.mean(0)[at], answers.std(0)[at]
    assert (np.abs(off) <= STUDENT * errors[rows, at]).mean() >= 0.94
    assert np.sqrt(np.square(true).mean() / np.square(errors[rows, at]).mean()) <= 1.1
