"""Ctrl-C ends with 130 wherever it strikes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import ROOT

WITHIN_EXEC = """
    exec("os.kill(os.getpid(), signal.SIGINT); time.sleep(9)")
"""
LOST = """
    class Callback:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(9)
    Callback()
    try:
        with deferred() as pending:
            pending.check()
    except Interrupted as interrupted:
        interrupted.hand_on()
"""


@pytest.mark.parametrize("body", [WITHIN_EXEC, LOST])
def test_an_interrupt_ends_with_130(tmp_path: Path, body: str) -> None:
    """Within exec of a string, after which python -m ends by the signal; in a callback, where Python drops it."""
    (tmp_path / "program.py").write_text(
        f"import os, signal, sys, time\nsys.path.append({str(ROOT)!r})\n"
        f"from sweep.core.signals import Interrupted, deferred, exit_code\nwith exit_code():{body}"
    )
    assert subprocess.run([sys.executable, "-m", "program"], cwd=tmp_path).returncode == 130


OUTSIDE = "signal.raise_signal(signal.SIGUSR2)"
HANDED_ON = """
try:
    with deferred() as pending:
        signal.raise_signal(signal.SIGUSR2)
        pending.check()
except Interrupted as interrupted:
    interrupted.hand_on()
"""
A_SECOND_ONE = """
with deferred():
    signal.raise_signal(signal.SIGUSR2)
    signal.raise_signal(signal.SIGUSR2)
"""


@pytest.mark.parametrize("body", [OUTSIDE, HANDED_ON, A_SECOND_ONE], ids=["outside", "handed on", "a second one"])
def test_what_requeues_a_job_is_not_ended_by_sigterm(body: str) -> None:
    """Handlers as submitit has them; a child in place of scontrol, which Slurm's SIGTERM meets."""
    program = f"""
import signal, subprocess, sys
from sweep.core.signals import Interrupted, deferred, shield_requeue
def requeue(*_):
    sys.exit(subprocess.call(["sh", "-c", "kill -TERM $$; exit 3"]))
signal.signal(signal.SIGTERM, lambda *_: None)
signal.signal(signal.SIGUSR2, requeue)
shield_requeue()
{body}
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == 3


COMMANDS = ["compare", "dashboard", "quamba", "recipe", "reproduce", "runs", "store", "track"]


@pytest.mark.parametrize("module", ["sweep", *(f"sweep.{command}" for command in COMMANDS)])
def test_every_command_ends_with_130(tmp_path: Path, module: str) -> None:
    program = (
        "import argparse, runpy, sys\n"
        "def interrupted(*_, **__):\n"
        "    raise KeyboardInterrupt\n"
        "argparse.ArgumentParser.parse_args = argparse.ArgumentParser.parse_known_args = interrupted\n"
        f"sys.argv = [{module!r}]\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
