"""Runs with known truths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from synthetic import World, mamba, write

from sweep.compare import Comparison, load
from sweep.compare.__main__ import main


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def compare(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Runs `python -m sweep.compare ARGUMENTS` in this process."""

    def run(*arguments: str) -> Done:
        monkeypatch.setattr("sys.argv", ["sweep.compare", *arguments])
        monkeypatch.setenv("COLUMNS", "140")
        code = main()
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def world() -> World:
    return mamba(layers=4, size=4000)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory, world: World) -> Path:
    """A sweep of every kind of cell, finished and not."""
    root = tmp_path_factory.mktemp("runs") / "demo"
    for alpha in (0.99, 0.9995, 0.9999):
        write(root / f"alpha={alpha},method=percentile", world, alpha=alpha)
    for alpha in (0.9995, 0.99999):
        write(root / f"minmax-{alpha}", world, method="minmax", alpha=alpha)
    write(root / "int4", world, format="int4")
    write(root / "grouped", world, grid=(2, 2))
    write(root / "running", world, status="running")
    write(root / "failed", world, status="failed", error="CUDA out of memory")
    write(root / "damaged", world)
    (root / "damaged" / "scales.parquet").write_bytes(b"PAR1 torn")
    (root / "torn" / ".hydra").mkdir(parents=True)
    return root


@pytest.fixture(scope="session")
def runs(demo: Path) -> Comparison:
    return load(demo)
