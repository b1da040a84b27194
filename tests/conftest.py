"""What every test may rely on."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.harness import Done, Run

hypothesis.settings.register_profile("any machine", deadline=None)  # a busy processor is no failure
hypothesis.settings.load_profile("any machine")

NOBODY = "http://127.0.0.1:9"  # discard: nobody listens
os.environ |= {"WANDB_BASE_URL": NOBODY, "HF_ENDPOINT": NOBODY}  # before their clients read them, and for children
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def this_machine_alone() -> Iterator[None]:
    """No host beyond loopback has an address, whatever network there is: socket.gaierror says so."""
    ask, here = socket.getaddrinfo, (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", socket.gethostname())

    def asked(host: Any, *rest: Any, **more: Any) -> Any:
        if (host.decode() if isinstance(host, bytes) else host) not in here:
            raise socket.gaierror(socket.EAI_NONAME, f"a test asked for {host}, which is not this machine")
        return ask(host, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", asked)
        yield


@pytest.fixture(autouse=True)
def own_wandb() -> Iterator[None]:
    """W&B's client keeps its settings and its service for the whole process: no test meets those of another."""
    forget_wandb()
    yield
    forget_wandb()


def forget_wandb() -> None:
    if wandb := sys.modules.get("wandb"):
        wandb.teardown()
    os.environ.pop("WANDB_SERVICE", None)


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
