"""The store of calibrations: the same question of the same activations is answered once.

An entry holds statistics.parquet; its work area finished folds and checkpoints (`sweep.calibration.checkpoint`), and
of layerwise calibrations the hidden states.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sweep.core.store import MANIFEST, Damaged, Store
from sweep.core.store_key import Key
from sweep.quantization.statistics import Statistics

STATISTICS = "statistics.parquet"
FILES = re.compile(  # names of what calibrations and evaluations write into entries and work areas, at any depth
    r"\w+\.parquet|states\.safetensors|(fold|running)-\d.*|layer-\d+\.(parquet|draft)|hidden-\d+\.(bin|draft)|"
    r"\.draft-[0-9a-f]+"
)
_last: tuple[object, Statistics] | None = None  # last read or written: the cells of a grid ask for it in turn


@dataclass(frozen=True)
class CalibrationStore(Store):
    """A store whose entries are the statistics of a calibration."""

    def read(self, key: Key) -> Statistics | None:
        """The statistics of a key, None if there is no entry; every byte is checked.

        Raises Damaged, and UsageError where the entry holds something else."""
        global _last
        entry = self.path(key)
        with suppress(FileNotFoundError):  # which `find` reports
            stamp = key.preimage, _stamp(entry)
            if _last and _last[0] == stamp:
                return _last[1]
        if self.find(key) is None:
            return None
        try:
            statistics = Statistics.load(entry / STATISTICS)
        except Exception as error:  # sound bytes that are no statistics
            raise Damaged(f"{entry / STATISTICS}: {error}") from error
        _last = stamp, statistics
        return statistics

    def write(self, key: Key, statistics: Statistics, grown_from: Mapping[str, object] | None = None) -> Path:
        """Put the statistics into place; returns the entry's directory. grown_from: the calibration that they went on
        from, for the manifest. Raises UsageError as `put` does."""
        global _last
        entry = self.put(key, lambda draft: statistics.save(draft / STATISTICS), grown_from)
        _last = (key.preimage, _stamp(entry)), statistics
        return entry


def _stamp(entry: Path) -> list[tuple[object, ...]]:
    """Identity of an entry's files, another one after each change. Raises FileNotFoundError where there are none."""
    files = map(os.stat, (entry / MANIFEST, entry / STATISTICS))
    return [(entry, s.st_ino, s.st_size, s.st_mtime_ns) for s in files]
