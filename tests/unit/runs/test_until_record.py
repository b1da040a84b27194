"""What a calibration that stopped by itself leaves behind: in the record, for trackers, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cells
import numpy as np
import pytest

from sweep.calibration.until import Decision, Errors, Goal, Look
from sweep.config.config import Config
from sweep.runs import record as runs
from sweep.runs import until
from sweep.runs.record import RunRecord
from sweep.runs.tracking import view
from sweep.runs.tracking.trackers import Trackers
from sweep.runs.tracking.wandb import WandbTracker

GOAL = Goal(0.01, 0.95)
PLACES = [(layer, "x_conv_out") for layer in range(4)]


def look(samples: int, *errors: float, loss: float | None = None) -> Look:
    return Look.at(samples, "mse int8 tensor", GOAL, Errors(PLACES, np.array(errors), loss))


LOOKS = look(64, 0.1, 0.2, np.inf, 0.4, loss=0.5), look(128, 0.001, 0.002, 0.003, 0.004, loss=0.02)
DECISION = Decision("ef" * 32, GOAL, 512, 3, LOOKS)


def decided(directory: Path) -> Path:
    calibration = cells.RECORD["calibration"] | {"until": DECISION.to_dict()}
    return cells.finished(directory, calibration=calibration)


def test_the_record_is_typed_and_keeps_all(tmp_path: Path) -> None:
    record = runs.load(decided(tmp_path / "0"))
    assert record.results is not None
    assert record.results.calibration.until == DECISION
    assert record.results.calibration.question == "ef" * 32
    assert RunRecord.from_dict(record.to_dict()) == record
    plain = runs.load(cells.finished(tmp_path / "1"))
    assert plain.results is not None
    assert plain.results.calibration.question == plain.results.calibration.key
    assert "until" not in plain.to_dict()["calibration"]


def test_a_tracker_sees_a_curve_for_each_number_of_samples(tmp_path: Path) -> None:
    shown = view.read(decided(tmp_path / "0"))
    curves = {(row["layer"], key): row[key] for row in shown.looks if "layer" in row for key in row}
    assert [curves[n, "until/error after 128 samples"] for n in range(4)] == [0.001, 0.002, 0.003, 0.004]
    assert (2, "until/error after 64 samples") not in curves  # infinite
    samples = [row for row in shown.looks if "samples" in row]
    assert [row["samples"] for row in samples] == [64, 128]
    assert [row["tolerance/settled"] for row in samples] == [0.0, 1.0]
    assert "tolerance/worst" not in samples[0]
    assert shown.summary["until/settled/128"] == 1.0
    assert shown.summary["until/loss_error/64"] == 0.5
    assert "until/worst/64" not in shown.summary


class Run:
    """As much of a W&B run as a look needs."""

    offline, url, id = True, None, "abc"

    def __init__(self, directory: Path) -> None:
        self.summary: dict[str, Any] = {}
        self.settings = type("Settings", (), {"sync_dir": str(directory), "mode": "offline"})
        self.history: list[tuple[int, dict[str, Any]]] = []

    def define_metric(self, name: str, **settings: Any) -> None:
        pass

    def log(self, row: dict[str, Any], step: int, commit: bool) -> None:
        self.history.append((step, row))


def test_wandb_is_told_at_once_and_other_trackers_if_they_listen(tmp_path: Path) -> None:
    run = Run(tmp_path)

    class Older:
        """A tracker of another package, from before there were looks."""

        record = hint = None

    Trackers({"wandb": WandbTracker(tmp_path, run), "older": Older()}).looked(LOOKS[1])  # type: ignore[dict-item]
    assert run.summary == view.summary_of_look(LOOKS[1])
    assert run.history == list(enumerate(view.of_look(LOOKS[1])))
    assert run.summary["until/error/128"] == 0.004


@pytest.mark.parametrize("change", [{"alpha": 0.9}, {"format": "int4"}, {"method": "mse"}])
def test_what_a_cell_asks_tells_cells_apart_and_makes_them_again(change: dict[str, Any]) -> None:
    one = cells.CONFIG
    other = Config(one.model, one.data, one.calibration, **change)
    assert until.asked(one) != until.asked(other)
    assert until._of(one, until.asked(other)).identity == other.identity
    assert until._setting(one) != until._setting(other)
