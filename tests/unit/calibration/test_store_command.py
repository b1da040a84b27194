"""python -m sweep.store: what it shows, finds and removes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_store import KEY, statistics

from sweep.calibration.cache import STATISTICS, CalibrationStore
from sweep.calibration.store_command import main

PREIMAGE = {"dtype": "float32", "batch_size": 8, "folds": 2, "backend": "test 1.0"}
GOOD, BAD = replace(KEY, preimage=PREIMAGE), replace(KEY, preimage={**PREIMAGE, "folds": 4})


@pytest.fixture
def store(tmp_path: Path) -> CalibrationStore:
    """A sound entry, a damaged one, one set aside, and a calibration under way."""
    store = CalibrationStore(tmp_path / "store")
    store.write(BAD, statistics())
    store.set_aside(BAD)
    store.write(GOOD, statistics())
    (store.write(BAD, statistics()) / STATISTICS).write_bytes(b"nonsense")
    store.work(KEY).mkdir()
    (store.work(KEY) / "fold-0000-x.parquet").write_bytes(bytes(2_000_000))
    return store


def run(store: CalibrationStore, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["--store", str(store.root), *arguments])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_list(store: CalibrationStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    code, text = run(store, capsys, "list")
    assert code == 0
    assert "float32, batch 8, 2 folds, test 1.0" in text
    assert "unfinished, 1 folds done" in text
    assert "damaged, set aside" in text
    assert text.splitlines()[-1].startswith("2 calibrations, 2.")


def test_verify(store: CalibrationStore, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(store, capsys, "verify")
    assert code == 1
    assert f"sound    {GOOD}" in text
    assert f"damaged  {store.path(BAD) / STATISTICS}" in text
    main(["--store", str(store.root), "prune", str(BAD)])
    assert run(store, capsys, "verify")[0] == 0


def test_prune_leaves_what_is_good_or_in_use(store: CalibrationStore, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(store, capsys, "prune", "--dry-run")
    assert code == 0
    assert "would go" in text
    with store.locked(KEY, ".shard-0-of-2"):
        assert f"in use    {store.work(KEY).name}" in run(store, capsys, "prune")[1]
        assert store.work(KEY).is_dir()
    assert run(store, capsys, "prune")[0] == 0
    assert not store.work(KEY).exists()
    assert {p.name for p in store.root.iterdir() if not p.name.endswith(".lock")} == {str(GOOD), str(BAD)}
    run(store, capsys, "prune", str(GOOD))
    assert GOOD not in store


def test_mistakes_are_one_line(store: CalibrationStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(store, capsys, "prune", "nonsense")
    assert (code, text.count("\n")) == (2, 1)
    assert "no entry begins with nonsense" in text
    assert main(["--store", str(tmp_path / "nowhere"), "list"]) == 2
