"""The work area of a calibration under way: finished folds on disk, and the one that is running.

Every file carries the SHA-256 of its content in its name and is put into place by a rename, so a file
is whole or it is not taken. Folds are independent and deterministic: it does not matter which process
wrote one, and shards of a calibration simply write theirs into the same directory.
"""

from __future__ import annotations

import io
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from sweep.core.errors import UsageError
from sweep.core.files import sha256, sync
from sweep.quantization.statistics import Statistics

_FOLD = re.compile(r"fold-(\d+)-([0-9a-f]{64})\.parquet")
_RUNNING = re.compile(r"running-(\d+)-(\d+)-([0-9a-f]{64})\.v5\.pt\.zst")  # the fifth layout of this file


class Checkpoint:
    """The work area of one calibration. every: seconds between two checkpoints, by a clock that never goes back."""

    def __init__(self, directory: Path, every: float) -> None:
        self.directory = directory
        self._every = every
        self._last = time.monotonic()
        self._saved: set[int] = set()
        self._unsaved: dict[int, Statistics] = {}

    def due(self) -> bool:
        return time.monotonic() - self._last >= self._every

    def folds(self, wanted: Collection[int]) -> Iterator[tuple[int, Statistics]]:
        """The wanted folds that are finished and sound, each one once; of another version counts as unfinished."""
        for path, match in self._files(_FOLD):
            if (fold := int(match[1])) in wanted and fold not in self._saved and sha256(path) == match[2]:
                try:
                    statistics = Statistics.load(path)
                except ValueError:  # of another version
                    continue
                self._saved.add(fold)
                yield fold, statistics

    def passed(self, since: int, samples: int, folds: int, size: int) -> int:
        """Number of the samples since `since` that are done, by the names of the files, as if batches were full."""
        finished = {int(match[1]) for _, match in self._files(_FOLD)}
        running = {int(match[1]): int(match[2]) for _, match in self._files(_RUNNING)}
        whole = sum(number % folds in finished for number in range(since, samples))
        return whole + size * sum(batches for fold, batches in running.items() if fold not in finished)

    def running(self, fold: int, device: torch.device) -> tuple[int, dict[Any, Any]]:
        """Number of a fold's batches that are done, and the state saved after them; (0, {}) without any."""
        files = [(int(m[2]), path, m[3]) for path, m in self._files(_RUNNING) if int(m[1]) == fold]
        for batches, path, digest in sorted(files, reverse=True):
            if sha256(path) == digest:
                packed = path.read_bytes()
                size = int.from_bytes(packed[:8], "little")
                raw = pa.decompress(packed[8:], size, codec="zstd", asbytes=True)
                return batches, torch.load(io.BytesIO(raw), map_location=device, weights_only=True)
        return 0, {}

    def add(self, fold: int, statistics: Statistics) -> None:
        """A fold that is finished, to be written with the next checkpoint."""
        self._unsaved[fold] = statistics

    def save(self, fold: int, batches: int, state: dict[Any, Any]) -> None:
        """Write the finished folds and the running one's state. A full disk costs the checkpoint alone."""
        try:
            self.keep()
            raw = io.BytesIO()
            torch.save(state, raw)
            packed = len(raw.getbuffer()).to_bytes(8, "little") + pa.compress(raw.getbuffer(), "zstd", asbytes=True)
            older = [path for path, m in self._files(_RUNNING) if int(m[1]) in {fold, *self._saved}]
            new = self._put(f"running-{fold:04}-{batches:06}-{{}}.v5.pt.zst", lambda p: p.write_bytes(packed))
            for path in older:
                if path != new:
                    path.unlink(missing_ok=True)
        except (OSError, UsageError) as error:
            print(f"no checkpoint: {error}; going on without", file=sys.stderr, flush=True)
        self._last = time.monotonic()

    def keep(self) -> None:
        """Write the finished folds that are not there yet. Raises UsageError if that is impossible."""
        try:
            for fold in sorted(self._unsaved):
                self._put(f"fold-{fold:04}-{{}}.parquet", self._unsaved[fold].save)
                self._saved.add(fold)
                del self._unsaved[fold]
        except OSError as error:
            raise UsageError(f"{self.directory} cannot be written: {error.strerror or error}") from error

    def _put(self, name: str, write: Callable[[Path], object]) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True)
        draft = self.directory / f".draft-{secrets.token_hex(8)}"  # shards on other hosts write here too
        try:
            write(draft)
            sync(draft)
            return draft.replace(self.directory / name.format(sha256(draft)))
        finally:
            draft.unlink(missing_ok=True)

    def _files(self, pattern: re.Pattern[str]) -> Iterator[tuple[Path, re.Match[str]]]:
        names = sorted(os.listdir(self.directory)) if self.directory.is_dir() else []
        return ((self.directory / n, m) for n in names if (m := pattern.fullmatch(n)))
