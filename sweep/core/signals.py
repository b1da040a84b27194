"""Signals that wait for a good moment: between two batches, when a checkpoint can be written.

Slurm and submitit preempt with SIGUSR2, clouds and `kill` with SIGTERM, people with Ctrl-C. While a
calibration runs they are only noted. It then saves, everything that is open is closed on the way out, and
at the very end the signal is handed on to whoever would have had it: submitit, which requeues the job,
Python's KeyboardInterrupt, or the operating system.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from sweep.core import streams


class Interrupted(BaseException):
    """Work stopped at a good moment because of a signal. Not an Exception: nothing may mistake it for a failure."""

    def __init__(self, number: int) -> None:
        self.number = signal.Signals(number)
        super().__init__(f"{self.number.name}; what was computed is kept, the same command goes on from there")

    def hand_on(self) -> NoReturn:
        """Let the signal do what it would have done at once. Call it when everything is closed."""
        signal.raise_signal(self.number)
        sys.exit(128 + self.number)  # its handler did not mind


def shield_requeue() -> None:
    """From now on SIGTERM is ignored once SIGUSR2 has come, where someone handles that; call it as a job begins.

    submitit has the job requeued by `scontrol`, a child in the job, all of which Slurm then ends with SIGTERM: a
    scontrol killed before it could answer would look like a failed one, and the job like a failed job. Children
    inherit that a signal is ignored; the job itself, told to requeue, has no other use for it."""
    former = signal.getsignal(signal.SIGUSR2)
    if not callable(former) or threading.current_thread() is not threading.main_thread():
        return

    def shielded(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        former(number, frame)

    signal.signal(signal.SIGUSR2, shielded)


class Pending:
    """A flag that is true once a signal has come."""

    number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    def check(self) -> None:
        """Raises Interrupted if a signal has come."""
        if self.number is not None:
            raise Interrupted(self.number)


_struck = Pending()  # of a SIGINT outside `deferred`, whatever became of its KeyboardInterrupt


@contextmanager
def exit_code() -> Iterator[None]:
    """Context around a command. Its streams never fail for want of a letter. Inside, a KeyboardInterrupt ends the
    process with 130 and a word on stderr. Python drops one that is raised in a callback, as imports run many: that one
    takes effect with the next `deferred`."""
    streams.forgiving()

    def strike(number: int, frame: FrameType | None) -> None:
        _struck.number = number
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, strike)
    try:
        yield
    except KeyboardInterrupt as error:
        if not isinstance(error.__context__, Interrupted):  # which has had its say
            print("interrupted", file=sys.stderr)
        # one that left `exec` of a string, as imports run it for dataclasses, has Python end `python -m` by the signal
        # instead; the next `exec` makes it forget that
        exec("")
        sys.exit(130)


@contextmanager
def deferred() -> Iterator[Pending]:
    """Inside, SIGINT, SIGTERM and SIGUSR2 are noted in what this yields; a second one takes effect at once.

    SIGTERM is left alone where someone else handles it: submitit means it to be ignored."""
    pending = Pending()
    if threading.current_thread() is not threading.main_thread():
        yield pending  # signals are delivered to the main thread only
        return
    wanted = [signal.SIGINT, signal.SIGUSR2]
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        wanted.append(signal.SIGTERM)
    former = {number: signal.getsignal(number) for number in wanted}
    pending.number = _struck.number

    def restore() -> None:
        for number, handler in former.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        if pending:
            restore()
            signal.raise_signal(number)
        pending.number = number
        name = signal.Signals(number).name
        print(f"{name}: stopping after this batch (a second time: at once)", file=sys.stderr, flush=True)

    for number in wanted:
        signal.signal(number, note)
    try:
        yield pending
    finally:
        restore()
