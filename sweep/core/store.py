"""A content-addressed store: directories of files, each under the hash of what it was computed from.

<store>/<prefix>-<hash>/   an entry: its files and manifest.json; complete or absent, never changed
<store>/.<entry>.work/     whatever its computation keeps while it is under way
<store>/.<entry>.lock      held while an entry is made; flock(2), so the kernel frees it when its holder dies

An entry is put into place by one rename after its files have reached the disk. On NFS this needs version 4,
or 3 with lockd: there flock works across hosts, and a lock of a host that died is freed when its lease ends.
Where flock does not exist, filelock falls back on lock files. Without any working lock two jobs may
compute the same entry twice; the rename still lets only one of two equal results in.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sweep.core.errors import UsageError
from sweep.core.files import sha256, sync
from sweep.core.store_key import Key, differences, digest

MANIFEST = "manifest.json"
_ENTRY = re.compile(r"[^.].*-[0-9a-f]{16}")  # neither work areas nor what was set aside
_LEFT = re.compile(r"\..+-[0-9a-f]{16}\.work|[^.].*-[0-9a-f]{16}\.damaged-\d+")  # which are these


class Damaged(Exception):
    """An entry that is not what its manifest says; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Store:
    """A directory of entries, shared by any number of processes and hosts."""

    root: Path

    def path(self, key: Key) -> Path:
        return self.root / str(key)

    def work(self, key: Key) -> Path:
        """The work area of an entry that is being computed."""
        return self.root / f".{key}.work"

    def __contains__(self, key: Key) -> bool:
        """True if there is an entry; `find` tells whether it is sound."""
        return (self.path(key) / MANIFEST).is_file()

    def find(self, key: Key) -> Path | None:
        """The directory of a key's entry, every byte of its files checked; None if there is no entry.

        Raises Damaged, and UsageError where the entry holds something else."""
        entry = self.path(key)
        if not entry.is_dir():
            return None
        try:
            manifest = verify(entry)
        except FileNotFoundError:
            if not entry.is_dir():
                return None  # pruned this moment
            raise Damaged(f"{entry}: a file is missing") from None
        if manifest["preimage"] != key.preimage:
            raise UsageError(
                f"store entry {entry} holds something else: "
                f"{'; '.join(differences(manifest['preimage'], key.preimage))}. Move it away"
            )
        return entry

    def put(self, key: Key, save: Callable[[Path], None], grown_from: Mapping[str, object] | None = None) -> Path:
        """Put an entry into place in one step and drop its work area; returns the entry's directory.

        save: writes the entry's files into the directory it is given. Raises UsageError where the disk does not
        take them."""
        entry, draft = self.path(key), self.work(key) / f"entry-{secrets.token_hex(8)}"
        try:
            draft.mkdir(parents=True)
            save(draft)
            files = {f.name: {"bytes": f.stat().st_size, "sha256": sha256(f)} for f in sorted(draft.iterdir())}
            manifest: dict[str, object] = {
                "key": key.hash,
                "prefix": key.prefix,
                "preimage": key.preimage,
                "files": files,
            }
            if grown_from:
                manifest["grown_from"] = dict(grown_from)
            (draft / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
            for file in draft.iterdir():
                sync(file)
            sync(draft)
            _rename(draft, entry)
            sync(self.root)
        except OSError as error:
            raise UsageError(
                f"store={self.root}: {error.strerror or error}: {key} is not stored. "
                "Make room and start again, or choose another store=DIRECTORY"
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            with suppress(OSError):  # there are checkpoints to go on from
                self.work(key).rmdir()
        shutil.rmtree(self.work(key), ignore_errors=True)
        return entry

    def set_aside(self, key: Key) -> Path:
        """Move a damaged entry out of the way; returns where it is now. Hold the lock."""
        number = 1
        while (aside := self.root / f"{key}.damaged-{number}").exists():
            number += 1
        return self.path(key).rename(aside)

    @contextmanager
    def locked(self, key: Key, part: str = "") -> Iterator[None]:
        """Hold the lock of a key, or of a named part of it; says so on stderr if that means waiting."""
        lock = FileLock(self.root / f".{key}{part}.lock")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                print(f"{key}: another process is at it; waiting", file=sys.stderr, flush=True)
                lock.acquire(poll_interval=0.2)
        except OSError as error:
            raise UsageError(
                f"store={self.root} cannot be written: {error.strerror or error}; choose another store=DIRECTORY"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def entries(self) -> list[Path]:
        """All entries, sound or not, without those set aside."""
        if not self.root.is_dir():
            return []
        return sorted(p for p in self.root.iterdir() if p.is_dir() and _ENTRY.fullmatch(p.name))

    def keys(self) -> list[Key]:
        """The keys of all entries that say whose they are, sound or not."""
        keys = []
        for entry in self.entries():
            with suppress(OSError, ValueError, KeyError, TypeError):
                manifest = json.loads((entry / MANIFEST).read_bytes())
                key = Key(manifest["prefix"], manifest["preimage"])
                if str(key) == entry.name:
                    keys.append(key)
        return keys

    def leftovers(self) -> list[Path]:
        """Work areas, and entries that were set aside. Locks are none: to unlink one splits its users."""
        return sorted(p for p in self.root.iterdir() if p.is_dir() and not p.is_symlink() and _LEFT.fullmatch(p.name))

    def nearest(self, key: Key) -> str | None:
        """The most similar entry of the same prefix and how it differs, in words; None without any."""
        best: tuple[int, str] | None = None
        for entry in self.entries():
            with suppress(OSError, ValueError, KeyError):
                manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
                if manifest["prefix"] == key.prefix:
                    phrases = differences(manifest["preimage"], key.preimage)
                    words = f"{entry.name} differs in {'; '.join(phrases)}"
                    best = min(best or (len(phrases) + 1, ""), (len(phrases), words))
        return best[1] if best else None


def discard(path: Path, ours: re.Pattern[str]) -> Path | None:
    """Remove an entry or a leftover, unless it holds a file whose name is none of `ours`: that one is returned."""
    for directory, _, files in os.walk(path):
        if theirs := [name for name in files if name != MANIFEST and not ours.fullmatch(name)]:
            return Path(directory, theirs[0])
    shutil.rmtree(path, ignore_errors=True)
    return None


def verify(entry: Path) -> dict[str, Any]:
    """The manifest of a sound entry. Raises Damaged, or FileNotFoundError."""
    try:
        manifest: dict[str, Any] = json.loads((entry / MANIFEST).read_bytes())
        key, files = digest(manifest["preimage"]), manifest["files"]
        if manifest["key"] != key or not entry.name.endswith(key[:16]) or not files:
            raise ValueError("it does not belong to this entry")
        expected = {entry / name: file["sha256"] for name, file in files.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{entry / MANIFEST}: {error}") from error
    for file, wanted in expected.items():
        if (actual := sha256(file)) != wanted:
            raise Damaged(f"{file}: its SHA-256 is {actual[:16]}…, the manifest says {wanted[:16]}…")
    return manifest


def _rename(draft: Path, entry: Path) -> None:
    try:
        draft.rename(entry)
    except OSError:
        if not (entry / MANIFEST).is_file():  # else: where no lock works another was faster, with the same content
            raise
