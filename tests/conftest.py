"""What every test may rely on."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

from tests.harness import Done, Run

hypothesis.settings.register_profile("any machine", deadline=None)  # a busy processor is no failure
hypothesis.settings.load_profile("any machine")


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `python -m sweep ARGUMENTS` in an empty directory, W&B disabled unless said otherwise.

    In this process, because importing torch takes longer than most tests; `command` is the real thing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")

    def run(*arguments: str) -> Done:
        from hydra.core.global_hydra import GlobalHydra
        from hydra.core.hydra_config import HydraConfig

        from sweep.__main__ import main

        quiet = [] if any(a.startswith(("wandb.", "--help")) for a in arguments) else ["wandb.mode=disabled"]
        monkeypatch.setattr(sys, "argv", ["sweep", *arguments, *quiet])
        out, err, code = io.StringIO(), io.StringIO(), 0
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                main()
        except SystemExit as exit:
            code = int(exit.code or 0)
        except KeyboardInterrupt:
            code = 130  # what exit_code makes of it around main; test_interrupting_ends_with_130 is the real thing
        finally:
            GlobalHydra.instance().clear()
            HydraConfig.instance().cfg = None
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    return run
