"""How tests run the program, and what they demand of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def require(condition: object, reason: str) -> None:
    """Skip where a real component is missing; fail instead where CI promised all of them."""
    if not condition:
        if os.environ.get("SWEEP_REQUIRE_ALL"):
            pytest.fail(f"must not be skipped here: {reason}")
        pytest.skip(reason)


Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


def command(directory: Path, *arguments: str, **env: str) -> Done:
    """Runs `python -m ARGUMENTS` in a process of its own, in `directory`."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **env},
        capture_output=True,
        text=True,
        timeout=240,
    )
