"""How tests run the program, and what they demand of the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def require(condition: object, reason: str) -> None:
    """Skip where a real component is missing; fail instead where CI promised all of them."""
    if not condition:
        if os.environ.get("SWEEP_REQUIRE_ALL"):
            pytest.fail(f"must not be skipped here: {reason}")
        pytest.skip(reason)


def browser(logs: dict[str, str] | None = None) -> Any:
    """Headless Chromium driven by selenium, with these logs kept; None where it or its driver is missing."""
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(paths):
        return None
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = str(paths[0])
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", logs or {})
    return Chrome(options=options, service=Service(paths[1]))


def simulated(script: Path) -> list[str]:
    """Lines that a script prints in a process of its own: numba is told of its simulator when it is imported."""
    env = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # the simulator's own threads take turns
    done = subprocess.run([sys.executable, str(script)], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


def command(directory: Path, *arguments: str, **env: str) -> Done:
    """Runs `python -m ARGUMENTS` in a process of its own, in `directory`."""
    # not the W&B service of this process, which may still wait for the server of another test
    inherited = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=directory,
        env={**inherited, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **env},
        capture_output=True,
        text=True,
        timeout=240,
    )
