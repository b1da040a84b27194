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
        f"from sweep.interrupt import Interrupted, deferred, exit_code\nwith exit_code():{body}"
    )
    assert subprocess.run([sys.executable, "-m", "program"], cwd=tmp_path).returncode == 130


@pytest.mark.parametrize("command", ["compare", "dashboard", "quamba", "runs", "store", "track"])
def test_every_command_ends_with_130(tmp_path: Path, command: str) -> None:
    program = (
        "import argparse, runpy, sys\n"
        "def interrupted(*_):\n"
        "    raise KeyboardInterrupt\n"
        "argparse.ArgumentParser.parse_args = interrupted\n"
        f"sys.argv = ['sweep.{command}']\n"
        f"runpy.run_module('sweep.{command}', run_name='__main__', alter_sys=True)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, "")
