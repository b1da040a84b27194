"""Data sets: from text to windows of token ids, with a fingerprint of exactly what was used."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sweep.config import Calibration, Data
from sweep.errors import UsageError, allowed

Encode = Callable[[str], NDArray[np.int64]]  # text to token ids

DATA = ("stdlib", "text")
TEXT_SUFFIXES = (".txt", ".md", ".py", ".rst")
_NOT_LIBRARY = {"test", "tests", "idle_test", "lib2to3", "site-packages"}


@dataclass(frozen=True, eq=False)
class Tokens:
    """windows: token ids of each sample, int64 [seqlen], none padded."""

    source: str
    windows: tuple[NDArray[np.int64], ...]

    @property
    def count(self) -> int:
        return sum(map(len, self.windows))

    @cached_property
    def sha256(self) -> str:
        """Of lengths and ids, in order: two calibrations saw the same tokens if and only if these agree."""
        digest = hashlib.sha256()
        for window in self.windows:
            digest.update(len(window).to_bytes(8, "little") + window.astype("<i8").tobytes())
        return digest.hexdigest()


def load(data: Data, encode: Encode, calibration: Calibration) -> Tokens:
    """`calibration.samples` windows of `calibration.seqlen` tokens.

    The texts are joined in the order of their names and cut into windows that do not overlap; the seed
    shuffles the windows and the first ones are taken. Raises UsageError where there are too few."""
    ids = np.concatenate([encode(text) for text in texts(data)] or [np.zeros(0, np.int64)])
    length, wanted = calibration.seqlen, calibration.samples
    count = len(ids) // length
    where = f"data={data.name}" + (f" data.path={data.path}" if data.path else "")
    if count == 0:
        raise UsageError(
            f"{where}: {len(ids)} tokens are less than one window of calibration.seqlen={length}; "
            "give more text or a shorter seqlen"
        )
    if count < wanted:
        raise UsageError(
            f"{where}: {count} windows of calibration.seqlen={length} tokens where calibration.samples={wanted} "
            f"were asked for; use calibration.samples={count} or give more text"
        )
    order = np.random.default_rng(calibration.seed).permutation(count)[:wanted]
    return Tokens(data.name, tuple(ids[i * length : (i + 1) * length] for i in order))


def texts(data: Data) -> Iterator[str]:
    """The documents of a data set, in a fixed order. Raises UsageError for what cannot be read."""
    if data.name == "stdlib":
        for path in standard_library(data.split):
            yield path.read_text(encoding="utf-8", errors="replace")
    elif data.name == "text":
        for path in _text_files(Path(str(data.path)).expanduser()):
            try:
                yield path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                raise UsageError(f"data.path={path} is not UTF-8 text; convert it or leave it out") from None
            except OSError as error:
                raise UsageError(f"data.path={path} cannot be read: {error.strerror}") from error
    else:
        raise allowed("data", data.name, DATA)


def standard_library(split: str, root: Path | None = None) -> list[Path]:
    """Source files of the standard library without its tests, sorted by name, of one split.

    A file is held out if the SHA-256 of its relative name is 0 modulo 20, whatever the other files are."""
    root = root or Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in root.rglob("*.py"):
        name = path.relative_to(root)
        if not _NOT_LIBRARY.intersection(name.parts):
            heldout = int(hashlib.sha256(name.as_posix().encode()).hexdigest(), 16) % 20 == 0
            if heldout == (split == "heldout"):
                found.append(name)
    return [root / name for name in sorted(found, key=lambda n: n.as_posix())]


def _text_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UsageError(f"data.path={path} does not exist; give a text file or a folder")
    files = sorted(p for p in path.rglob("*") if p.suffix in TEXT_SUFFIXES and p.is_file())
    if not files:
        raise UsageError(f"data.path={path} holds no text; allowed: files ending in {', '.join(TEXT_SUFFIXES)}")
    return files
