"""Progress counts each phase by itself, on a terminal and in plain lines."""

from __future__ import annotations

import io
import sys

import pytest

from sweep.core import progress as module
from sweep.core.progress import GRADIENTS, progress


class Clock:
    """time.monotonic, as a test sets it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock)
    return clock


def test_one_phase_says_what_is_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("calibrating tiny") as show:
        show(0, 40)
        for done in (10, 20, 40):
            clock.now += 10
            show(done, 40)
    assert capsys.readouterr().err.splitlines() == [
        "calibrating tiny: 10/40 samples, 30 s left",
        "calibrating tiny: 20/40 samples, 20 s left",
        "calibrating tiny: 40/40 samples, 0 s left",
    ]


def test_two_phases_are_counted_apart_and_named(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """A sample takes one second, a gradient five; two folds of ten and two."""
    with progress("calibrating tiny") as show:
        show(0, 20)
        show(0, 4, GRADIENTS)
        for fold in range(2):
            clock.now += 10
            show(10 * (fold + 1), 20)
            clock.now += 10
            show(2 * (fold + 1), 4, GRADIENTS)
    assert capsys.readouterr().err.splitlines() == [
        "calibrating tiny, samples: 10/20 samples, 0/4 gradients, more than 10 s left",
        "calibrating tiny, gradients: 10/20 samples, 2/4 gradients, 20 s left",
        "calibrating tiny, samples: 20/20 samples, 2/4 gradients, 10 s left",
        "calibrating tiny: 20/20 samples, 4/4 gradients, 0 s left",
    ]


def test_what_a_stopped_calibration_has_done_takes_no_time_again(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("calibrating big", "x layers") as show:
        show(30, 40)
        show(0, 20, GRADIENTS)
        clock.now += 10
        show(35, 40)
    assert capsys.readouterr().err == (
        "calibrating big, samples: 35/40 samples x layers, 0/20 gradients x layers, more than 10 s left\n"
    )


def test_nothing_is_said_before_there_is_something_to_say(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("calibrating tiny") as show:
        show(8, 8)
        show(0, 4, GRADIENTS)
        clock.now += 1
        show(1, 4, GRADIENTS)
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar_for_each_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    with progress("calibrating [mine]") as show:
        show(12, 16)
        show(3, 8, GRADIENTS)
    text = shown.getvalue()
    for words in ("calibrating [mine], samples", "12/16", "calibrating [mine], gradients", "3/8"):
        assert words in text
