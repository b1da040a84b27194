"""What can go wrong with a calibration: in every case an exact result or one clear error, and no hang."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import small
import torch

from sweep.calibration.cache import STATISTICS, CalibrationStore
from sweep.calibration.checkpoint import Checkpoint
from sweep.config.config import Config
from sweep.config.knobs import Calibration, Data, Model, Wandb
from sweep.core import store
from sweep.core.errors import UsageError
from sweep.runs import cell
from sweep.runs import record as runs
from sweep.runs.status import RunStatus
from tests.harness import require

KILLS = 50


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The tests fork, and threads do not survive that."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def config(files: Path, tmp_path: Path) -> Config:
    return Config(
        Model("small", str(files / "model")),
        Data("text", str(files / "text.txt")),
        Calibration(samples=8, seqlen=32, batch_size=1, folds=2, checkpoint=0),
        store=str(tmp_path / "store"),
        wandb=Wandb(mode="disabled"),
    )


@pytest.fixture(scope="module")
def reference(files: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The statistics that nothing disturbed."""
    root = tmp_path_factory.mktemp("reference")
    undisturbed = Config(
        Model("small", str(files / "model")),
        Data("text", str(files / "text.txt")),
        Calibration(samples=8, seqlen=32, batch_size=1, folds=2),
        store=str(root / "store"),
        wandb=Wandb(mode="disabled"),
    )
    cell.run(undisturbed, root / "run", "group")
    return statistics(undisturbed)


def statistics(config: Config) -> bytes:
    (entry,) = CalibrationStore(Path(config.store)).entries()
    store.verify(entry)
    return (entry / STATISTICS).read_bytes()


def forked(work: Callable[[], object]) -> int:
    """Process id of a child that works and exits with 0, with 2 for a UsageError, with 1 for anything else."""
    if child := os.fork():
        return child
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        work()
        code = 0
    except UsageError:
        code = 2
    finally:
        os._exit(code)


def exit_code(child: int, seconds: float = 120) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("it hangs")


def under_way(config: Config) -> bool:
    return any(Path(config.store).glob(".*.work/running-*"))


@pytest.mark.slow
def test_killed_at_fifty_random_moments(config: Config, tmp_path: Path, reference: bytes) -> None:
    killed_at_random(config, tmp_path, reference, KILLS)


@pytest.mark.slow
@pytest.mark.usefixtures("reference")  # with it comes what each child would import anew
def test_killed_while_samples_are_differentiated(config: Config, tmp_path: Path) -> None:
    config = replace(config, calibration=replace(config.calibration, samples=4, fisher=4))
    undisturbed = replace(config, store=str(tmp_path / "undisturbed"))
    assert exit_code(forked(lambda: cell.run(undisturbed, tmp_path / "reference", "group"))) == 0
    killed_at_random(config, tmp_path, statistics(undisturbed), KILLS // 3)


def killed_at_random(config: Config, tmp_path: Path, reference: bytes, number: int) -> None:
    """The kills follow each other on one calibration; when it gets to its end between two, the next begins."""
    begin = time.monotonic()
    assert exit_code(forked(lambda: cell.run(config, tmp_path / "run", "group"))) == 0
    usual = time.monotonic() - begin
    shutil.rmtree(config.store)
    kills = 0
    while kills < number:
        child = forked(lambda: cell.run(config, tmp_path / "run", "group"))
        time.sleep(random.uniform(0, usual))
        os.kill(child, signal.SIGKILL)
        kills += exit_code(child) == -signal.SIGKILL
        if CalibrationStore(Path(config.store)).entries():
            assert statistics(config) == reference
            shutil.rmtree(config.store)
    assert exit_code(forked(lambda: cell.run(config, tmp_path / "run", "group"))) == 0
    assert statistics(config) == reference
    assert not list(Path(config.store).glob(".*.work"))


@pytest.mark.parametrize("call", range(1, 6))
@pytest.mark.parametrize("name", ["sync", "_rename"])
def test_killed_while_the_entry_is_written(
    config: Config, tmp_path: Path, reference: bytes, monkeypatch: pytest.MonkeyPatch, name: str, call: int
) -> None:
    """Before each file reaches the disk, before the rename, and right after it."""
    config = replace(config, calibration=replace(config.calibration, checkpoint=1e9))
    calls, real = 0, getattr(store, name)

    def dying(*arguments: Path) -> None:
        nonlocal calls
        calls += 1
        if name == "_rename" and call == 2:
            real(*arguments)
            os._exit(9)
        if calls == call:
            os._exit(9)
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(store, name, dying)
        if exit_code(forked(lambda: cell.run(config, tmp_path / "run", "group"))) == 0:
            assert call > (1 if name == "_rename" else 4)
    assert exit_code(forked(lambda: cell.run(config, tmp_path / "run", "group"))) == 0
    assert statistics(config) == reference


def test_four_processes_race_for_one_calibration(config: Config, tmp_path: Path, reference: bytes) -> None:
    children = [forked(lambda i=i: cell.run(config, tmp_path / str(i), "group")) for i in range(4)]  # type: ignore[misc]
    assert [exit_code(child) for child in children] == [0, 0, 0, 0]
    cached = [runs.content(tmp_path / str(i))["calibration"]["cached"] for i in range(4)]
    assert sorted(cached) == [False, True, True, True]
    assert statistics(config) == reference


def test_the_holder_is_killed_while_others_wait(config: Config, tmp_path: Path, reference: bytes) -> None:
    holder = forked(lambda: cell.run(config, tmp_path / "holder", "group"))
    end = time.monotonic() + 120
    while not under_way(config) and time.monotonic() < end:
        time.sleep(0.002)
    os.kill(holder, signal.SIGSTOP)  # it holds the lock and goes no further
    waiting = [forked(lambda i=i: cell.run(config, tmp_path / str(i), "group")) for i in range(2)]  # type: ignore[misc]
    time.sleep(0.5)
    assert [os.waitpid(child, os.WNOHANG)[0] for child in waiting] == [0, 0]
    os.kill(holder, signal.SIGKILL)
    assert exit_code(holder) == -signal.SIGKILL
    assert [exit_code(child) for child in waiting] == [0, 0]
    assert statistics(config) == reference


def test_a_full_disk_is_one_clear_error(config: Config, tmp_path: Path, reference: bytes) -> None:
    disk = Path(config.store)
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True) if shutil.which("mount") else None
    require(mounted and mounted.returncode == 0, "a full disk needs the right to mount a tmpfs")
    try:
        with pytest.raises(UsageError, match="No space left on device") as error:
            cell.run(config, tmp_path / "run", "group")
        assert "\n" not in str(error.value)
        assert f"store={disk}" in str(error.value)
        assert runs.load(tmp_path / "run").status is RunStatus.FAILED
        assert CalibrationStore(disk).entries() == []
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        cell.run(config, tmp_path / "run", "group")
        assert statistics(config) == reference
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("damage", ["flip", "truncate"])
@pytest.mark.parametrize("name", [STATISTICS, store.MANIFEST])
def test_a_damaged_entry_is_named_and_computed_again(
    config: Config, tmp_path: Path, reference: bytes, capsys: pytest.CaptureFixture[str], name: str, damage: str
) -> None:
    cell.run(config, tmp_path / "run", "group")
    (entry,) = CalibrationStore(Path(config.store)).entries()
    content = bytearray((entry / name).read_bytes())
    at = content.index(b'"sha256": "') + 12 if name == store.MANIFEST else len(content) // 2
    content[at] ^= 1
    (entry / name).write_bytes(content if damage == "flip" else content[:-9])
    again = cell.run(config, tmp_path / "again", "group")
    assert not again.results.calibration.cached
    assert statistics(config) == reference
    said = capsys.readouterr().err
    assert f"damaged: {entry}" in said
    assert f"Moved to {entry.name}.damaged-1" in said
    assert (entry.parent / f"{entry.name}.damaged-1" / name).exists()


def test_the_clock_goes_back(config: Config, tmp_path: Path, reference: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock is an hour earlier than the last, and what lies on disk is from the future."""
    hours = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: 1e9 - 3600 * next(hours))
    child = forked(lambda: cell.run(config, tmp_path / "run", "group"))
    while not under_way(config):
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    exit_code(child)
    for path in Path(config.store).rglob("*"):
        os.utime(path, (4e9, 4e9))
    cell.run(config, tmp_path / "run", "group")
    assert statistics(config) == reference


def test_the_run_directory_is_deleted_meanwhile(
    config: Config, tmp_path: Path, reference: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Checkpoint.save

    def save_and_delete(*arguments: object) -> None:
        save(*arguments)  # type: ignore[arg-type]
        shutil.rmtree(tmp_path / "run", ignore_errors=True)

    monkeypatch.setattr(Checkpoint, "save", save_and_delete)
    with pytest.raises(UsageError, match="was deleted while the cell ran"):
        cell.run(config, tmp_path / "run", "group")
    assert statistics(config) == reference
    assert cell.run(config, tmp_path / "run", "group").results.calibration.cached


def test_a_record_that_is_half_written_is_no_result(config: Config, tmp_path: Path) -> None:
    done = cell.run(config, tmp_path / "run", "group")
    key = done.results.calibration.key
    assert runs.finished(tmp_path / "run", config, key)
    text = (tmp_path / "run/run.json").read_text()
    for wrong in (text[: len(text) // 2], "", json.dumps({**done.record.to_dict(), "status": "running"})):
        (tmp_path / "run/run.json").write_text(wrong)
        assert not runs.finished(tmp_path / "run", config, key)
