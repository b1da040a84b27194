"""A W&B-compatible server on loopback, and an environment in which W&B's client finds that one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from wandb_runs import Server

from sweep.runs.tracking import wandb_connection


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(shared: Server, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Server:
    for name in list(os.environ):
        if name.startswith("WANDB_") and name != "WANDB_BASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    for name, value in shared.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(wandb_connection, "_refused", set())
    return shared
