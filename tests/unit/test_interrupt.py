"""Ctrl-C ends with 130 wherever it strikes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.harness import ROOT

PROGRAM = f"""
import os, signal, sys, time
sys.path.append({str(ROOT)!r})
from sweep.interrupt import exit_code
with exit_code():
    exec("os.kill(os.getpid(), signal.SIGINT); time.sleep(9)")
"""


def test_an_interrupt_within_exec_of_a_string_ends_with_130_as_well(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    assert subprocess.run([sys.executable, "-m", "program"], cwd=tmp_path).returncode == 130
