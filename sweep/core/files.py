"""Files that have to be whole: their hash, and the moment they are on the disk."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def draft(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place at the end: a reader sees the old file or the new one.

    Raises OSError that names `path`, and then leaves it as it was and nothing beside it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    if path.exists() and not path.is_file():
        beside = path  # a device, a pipe
    try:
        yield beside
        if beside != path:
            beside.replace(path)
    except OSError as error:  # pyarrow's says what it did, not what is wrong
        number = error.errno or errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        if beside != path:
            beside.unlink(missing_ok=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Atomically, as `draft`. Raises ValueError for NaN and infinity, which JSON does not know."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with draft(path) as file:
        file.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Return when a file, or the names in a directory, have reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
