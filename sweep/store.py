"""Content-addressed calibrations: the same question of the same activations is answered once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.statistics import Statistics


@dataclass(frozen=True)
class Key:
    """Identity of a calibration: everything that changes the activations, and nothing else.

    preimage: plain JSON, stored beside the statistics. prefix: for people; not part of the identity."""

    prefix: str
    preimage: dict[str, Any]

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.preimage, sort_keys=True).encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.prefix}-{self.hash[:16]}"


def read(store: Path, key: Key) -> Statistics | None:
    """The statistics of a key, None if they are not there."""
    entry = store / str(key)
    return Statistics.load(entry / "statistics.parquet") if entry.is_dir() else None


def write(store: Path, key: Key, statistics: Statistics) -> Path:
    """Put an entry into place in one step; returns its directory."""
    entry = store / str(key)
    draft = store / f".{key}.{os.getpid()}"
    draft.mkdir(parents=True)
    statistics.save(draft / "statistics.parquet")
    (draft / "key.json").write_text(json.dumps(key.preimage, indent=2, sort_keys=True) + "\n")
    try:
        draft.rename(entry)
    except OSError:  # another process was faster, with the same content
        shutil.rmtree(draft)
    return entry
