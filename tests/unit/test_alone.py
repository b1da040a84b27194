"""No test meets what another left behind in its process, nor a host that is not this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest
import wandb


@pytest.mark.parametrize("port", [1, 2])  # the second finds what the first set up, unless that was forgotten
def test_wandb_reads_its_settings_anew(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    assert wandb.setup(wandb.Settings(silent=True)).settings.base_url == f"http://127.0.0.1:{port}"


def test_no_host_beyond_loopback_has_an_address() -> None:
    for address in ("example.org", "93.184.215.14"):
        with pytest.raises(socket.gaierror, match="is not this machine"):
            socket.create_connection((address, 80), timeout=5)
    assert os.environ["WANDB_BASE_URL"] == os.environ["HF_ENDPOINT"] == "http://127.0.0.1:9"


def test_a_child_can_be_interrupted() -> None:
    """Also where the tests run in the background of a shell, which ignores the signal."""
    program = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True\n"
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
