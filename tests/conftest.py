"""What every test may rely on."""

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


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def sweep(tmp_path: Path) -> Run:
    """Runs `python -m sweep ARGUMENTS` in an empty directory, W&B disabled unless said otherwise."""

    def run(*arguments: str, module: str = "sweep", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        quiet = [] if module != "sweep" or any(a.startswith(("wandb.", "-")) for a in arguments) else ["wandb.mode=disabled"]
        return subprocess.run(
            [sys.executable, "-m", module, *arguments, *quiet],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **(env or {})},
            capture_output=True,
            text=True,
            timeout=240,
        )

    return run
