"""How many samples would do: the law of the errors, and the command that is printed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import RECORD
from scipy.stats import chi2

from sweep.calibration.until import Decision, Goal, Look
from sweep.compare.analysis.forecast import REACH, forecast, needed
from sweep.compare.analysis.significance import freedom
from sweep.compare.render import sentences
from sweep.core.files import write_json
from sweep.quantization.methods.registry import METHODS
from sweep.runs.record import content


def run(directory: Path, samples: int = 512, overrides: str | None = "- alpha=0.999\n", **made: Any) -> Path:
    (directory / ".hydra").mkdir()
    if overrides is not None:
        (directory / ".hydra" / "overrides.yaml").write_text(overrides)
    record = RECORD | {
        "config": {"calibration": {"samples": samples, "batch_size": 8}},
        "calibration": {"key": "ab" * 32, "cached": False, **made},
        "timings": {"load_s": 50.0, "forward_s": 100.0, "observe_s": 28.0},
    }
    write_json(directory / "run.json", record)
    return directory


ERROR = np.array([0.005] * 5 + [0.02] * 4 + [0.5])


def test_the_command_computes_the_rest(tmp_path: Path) -> None:
    overrides = "- model.path=/a b/c\n- +calibration.samples=512\n- alpha=0.999\n"
    found = forecast(ERROR, 0.01, 8, "percentile", run(tmp_path, overrides=overrides))
    assert found is not None
    assert found.samples == 2048  # of nine tenths of the rows; the error has to halve
    assert found.low < 2048 < found.high
    assert (found.more, found.seconds) == (1536, 384.0)
    assert found.command is not None
    assert found.command == "python -m sweep 'model.path=/a b/c' alpha=0.999 calibration.samples=2048"
    assert sentences.forecast(found).endswith(": 1,536 more, about 6 min here")


@pytest.mark.parametrize(("method", "power", "wanted"), [("percentile", 2, 2048.0), ("mse", 3, 4096.0)])
def test_the_interval_by_hand(tmp_path: Path, method: str, power: int, wanted: float) -> None:
    """Twice the error that would do, of eight folds: 4.59 degrees of freedom, whose chi^2 lies in 0.65 to 12.15 in 95
    of 100 cases; as the error goes with its root, what is needed goes with its power."""
    found = forecast(np.full(4, 0.02), 0.01, 8, method, run(tmp_path))
    assert found is not None
    df = freedom(8)
    low, high = (wanted * (df / chi2.ppf(q, df)) ** (power / 2) for q in (0.975, 0.025))
    assert (found.samples, found.low, found.high) == (wanted, int(np.ceil(low)), int(np.ceil(high)))
    assert found.share == 0.9


def test_few_open_rows_are_all_to_be_told(tmp_path: Path) -> None:
    """One row of twenty is open: nine tenths are told already, so the forecast is for all. Two of twenty: likewise, as
    exactly nine tenths are; three of twenty: for the eighteenth."""
    errors = np.full(20, 0.005)
    for number, (share, samples) in enumerate(((1.0, 512 * 16), (1.0, 512 * 16), (0.9, 512 * 4))):
        (tmp_path / str(number)).mkdir()
        errors[number] = (0.04, 0.03, 0.02)[number]
        found = forecast(errors, 0.01, 8, "percentile", run(tmp_path / str(number)))
        assert found is not None
        assert (found.share, found.samples) == (share, samples)


@pytest.mark.parametrize(("method", "power"), [("percentile", 2), ("mse", 3), ("loss", 3)])
def test_nothing_is_counted_far_beyond_what_was_measured(tmp_path: Path, method: str, power: int) -> None:
    """16 times the samples at hand are forecast; of more it is only said that they are more, and nothing to start."""
    run(tmp_path)
    reach = REACH ** (1 / power)
    near = forecast(np.full(4, 0.01 * reach * 0.999), 0.01, 8, method, tmp_path)
    assert near is not None
    assert not near.beyond
    assert near.command is not None
    far = forecast(np.full(4, 0.01 * reach * 1.001), 0.01, 8, method, tmp_path)
    assert far is not None
    assert (far.beyond, far.samples, far.more, far.seconds, far.command) == (True, 8192, 0, None, None)
    assert np.isnan([far.low, far.high]).all()
    assert sentences.forecast(far) == (
        "it takes more than 8,192 samples to settle 90% of the scales; these cannot tell how many"
    )


def test_sixteen_times_exactly_are_forecast(tmp_path: Path) -> None:
    there = forecast(np.full(4, 0.25), 0.0625, 8, "percentile", run(tmp_path))  # (0.25 / 0.0625)^2 = 16
    assert there is not None
    assert (there.beyond, there.samples) == (False, 8192)


def test_there_is_always_one_more_round(tmp_path: Path) -> None:
    """An error a hair too large: 512 samples are eight rounds of 8 folds of 8, the ninth is the least there is."""
    found = forecast(np.full(4, 0.0100001), 0.01, 8, "percentile", run(tmp_path))
    assert found is not None
    assert (found.samples, found.more) == (576, 64)
    assert found.seconds == pytest.approx(64 * 128.0 / 512)

    (tmp_path / "ragged").mkdir()  # 500 samples end inside the eighth round
    found = forecast(np.full(4, 0.0100001), 0.01, 8, "percentile", run(tmp_path / "ragged", samples=500))
    assert found is not None
    assert (found.samples, found.more) == (512, 512)


def test_an_error_that_just_does_is_told(tmp_path: Path) -> None:
    run(tmp_path)
    assert forecast(np.full(4, 0.01), 0.01, 8, "percentile", tmp_path) is None
    found = forecast(np.array([0.01] * 9 + [0.02]), 0.01, 8, "percentile", tmp_path)
    assert found is not None
    assert (found.share, found.samples) == (1.0, 2048)


def test_time_is_that_of_gradients_too(tmp_path: Path) -> None:
    run(tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    write_json(tmp_path / "run.json", record | {"timings": record["timings"] | {"fisher_s": 128.0}})
    found = forecast(ERROR, 0.01, 8, "percentile", tmp_path)
    assert found is not None
    assert found.seconds == 1536 * (100.0 + 28.0 + 128.0) / 512


def test_an_unfinished_run_has_no_forecast(tmp_path: Path) -> None:
    run(tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    assert forecast(ERROR, 0.01, 8, "nothing like it", tmp_path) is None
    write_json(tmp_path / "run.json", record | {"config": {}})
    assert forecast(ERROR, 0.01, 8, "percentile", tmp_path) is None


def test_time_is_that_of_the_samples_that_passed(tmp_path: Path) -> None:
    found = forecast(ERROR, 0.01, 8, "percentile", run(tmp_path, grown_from={"samples": 256}))
    assert found is not None
    assert found.seconds == 768.0
    (tmp_path / "b").mkdir()
    run(tmp_path / "b", cached=True)
    found = forecast(ERROR, 0.01, 8, "percentile", tmp_path / "b")
    assert found is not None
    assert found.seconds is None


def test_samples_are_whole_batches_of_every_fold(tmp_path: Path) -> None:
    found = forecast(ERROR, 0.0123, 8, "percentile", run(tmp_path, samples=500, overrides=None))
    assert found is not None
    assert found.samples % 64 == 0
    assert found.more == found.samples  # 500 end inside a batch: nothing can be gone on from
    assert found.command is None


@pytest.mark.parametrize(("method", "times"), [("percentile", 4), ("mse", 8), ("loss", 8)])
def test_the_law_of_the_method(method: str, times: int) -> None:
    assert needed(np.array([0.02]), 0.01, 100, METHODS[method].power) == pytest.approx([100 * times])


def test_of_a_calibration_that_stopped_by_itself(tmp_path: Path) -> None:
    """Errors are those of the samples that were reached, and the command asks for more without a tolerance."""
    look = Look(256, "a", 0.9, 0.01, 0.01, 0.02, 0, "x_conv_out")
    until = Decision("q", Goal(0.01, 0.9), 512, 1, (look,)).to_dict()
    overrides = "- calibration.tolerance=1%\n- calibration.samples=512\n- alpha=0.999\n"
    run(tmp_path, overrides=overrides, until=until)
    record = content(tmp_path)
    write_json(tmp_path / "run.json", record | {"tokens": record["tokens"] | {"samples": 256}})
    found = forecast(ERROR, 0.01, 8, "percentile", tmp_path)
    assert found is not None
    assert (found.samples, found.more) == (1024, 768)
    assert found.command is not None
    assert shlex.split(found.command)[3:] == ["alpha=0.999", "calibration.samples=1024"]


def test_nothing_is_forecast_that_cannot_be(tmp_path: Path) -> None:
    run(tmp_path)
    assert forecast(ERROR, 0.01, 8, "minmax", tmp_path) is None
    assert forecast(ERROR, 0.01, 8, "entropy", tmp_path) is None  # its argmin jumps, and does not average out
    assert forecast(ERROR, 0.01, 8, "percentile_ema", tmp_path) is None
    assert forecast(ERROR, 0.6, 8, "percentile", tmp_path) is None
    assert forecast(ERROR, 0.01, 8, "percentile", tmp_path / "nowhere") is None


def test_the_interval_holds_what_is_true(tmp_path: Path) -> None:
    """Folds of normal errors: the true number lies in the interval in 95 of 100 cases, or more often, as Gumbel's tails
    are allowed for."""
    run(tmp_path)
    random, inside = np.random.default_rng(0), 0
    for _ in range(400):
        s = np.sqrt(random.chisquare(7) / 7) * 0.02
        found = forecast(np.full(10, s), 0.01, 8, "percentile", tmp_path)
        inside += found is None or found.low <= 2048 <= found.high
    assert inside >= 0.95 * 400
