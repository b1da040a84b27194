"""The directory of a run: nothing that lies there already is lost, unless the user insists."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sweep.core.errors import UsageError
from sweep.runs import record as runs
from sweep.runs.status import RunStatus

TABLES = tuple(
    f"{name}.parquet" for name in ("scales", "replicates", "convergence", "histograms", "grouping", "evaluation")
)
HYDRA = tuple(f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides"))
INSIST = "choose another directory, or say overwrite=true"


def take(directory: Path, same: Callable[[], bool], overwrite: bool, insist: str = INSIST) -> None:
    """Make sure that a run may write into a directory, and drop the tables of an earlier one that it replaces.

    same: whether the finished run that lies there is the one that is to be written again. Raises UsageError where the
    directory holds the result of another cell, or files of a run's names that no run has left, unless `overwrite`."""
    record = runs.read(directory)
    if record is None:
        if (theirs := foreign(directory)) and not overwrite:
            raise UsageError(f"{directory} holds {theirs}, which is no run's and would be overwritten: {insist}")
        return
    if record.status is RunStatus.FINISHED:
        if same():
            return
        if not overwrite:
            raise UsageError(f"{directory} holds a finished run ({record.name}) that would be overwritten: {insist}")
    for table in TABLES:  # the new run may write fewer
        (directory / table).unlink(missing_ok=True)


def foreign(directory: Path) -> str | None:
    """The first file that a run would overwrite and that none has left, where no run has been."""
    for name in (runs.FILE, runs.RECIPE, *TABLES):
        if (directory / name).exists():
            return name
    with suppress(OSError, UnicodeDecodeError):  # a run that was killed at once leaves Hydra's files alone
        if "\ncalibration:\n" not in "\n" + (directory / HYDRA[0]).read_text(encoding="utf-8"):
            return HYDRA[0]
    return None


@contextmanager
def held(directory: Path, what: str) -> Iterator[None]:
    """Keep a directory to this process. Raises UsageError where another one has it."""
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UsageError(f"{what}={directory}: another process is running in it; choose another directory") from None
    try:
        yield
    finally:
        lock.release()


def written(directory: Path, log: str) -> frozenset[str]:
    """The files and folders of a run that are in the directory. log: name of Hydra's log."""
    names = (runs.FILE, runs.RECIPE, ".lock", log, "wandb", *TABLES, *HYDRA, ".hydra", ".")
    return frozenset(name for name in names if (directory / name).exists())


def withdraw(directory: Path, log: str, before: frozenset[str]) -> None:
    """Remove what a run that came to nothing has left, but for what was there `before`. Whatever else has been put
    there meanwhile stays, and the directory with it."""
    for name in sorted(written(directory, log) - before, key=lambda n: (n == ".", n == ".hydra")):
        if name == "wandb":
            shutil.rmtree(directory / name, ignore_errors=True)
        elif name in (".hydra", "."):
            with suppress(OSError):  # something else lies in it
                (directory / name).resolve().rmdir()
        else:
            (directory / name).unlink(missing_ok=True)
