"""Samples of token ids cut from the texts of a data set, with a fingerprint of exactly what was used."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweep.calibration.text import texts
from sweep.config.knobs import Calibration, Data
from sweep.core.errors import UsageError

Encode = Callable[[str], NDArray[np.integer[Any]]]  # text to token ids


@dataclass(frozen=True)
class Outline:
    """Lengths and fingerprints of samples, without their tokens. lengths: in tokens. fingerprints: the n-th one is of
    the first n samples, from none to all; of lengths and ids, in order, so that two calibrations saw the same tokens if
    and only if these agree, and the first samples of one are all of another's."""

    lengths: tuple[int, ...]
    fingerprints: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Tokens:
    """windows: token ids of each sample, int64 [seqlen] or shorter, none padded. since: how many of the first samples
    are not to be passed again, see `sweep.calibration.growth`."""

    source: str
    windows: tuple[NDArray[np.int64], ...]
    since: int = 0

    @property
    def count(self) -> int:
        return sum(map(len, self.windows))

    @cached_property
    def outline(self) -> Outline:
        digest = hashlib.sha256()
        fingerprints = [digest.hexdigest()]
        for window in self.windows:
            digest.update(len(window).to_bytes(8, "little") + window.astype("<i8").tobytes())
            fingerprints.append(digest.hexdigest())
        return Outline(tuple(map(len, self.windows)), tuple(fingerprints))

    def first(self, samples: int) -> Tokens:
        """So many of the first samples."""
        return self if samples == len(self.windows) else replace(self, windows=self.windows[:samples])

    @property
    def sha256(self) -> str:
        """The fingerprint of all samples."""
        return self.outline.fingerprints[-1]

    @cached_property
    def texts(self) -> NDArray[np.int64]:
        """Number of the distinct sample that each is, as they first appear, [samples]: copies have one number."""
        numbers: dict[bytes, int] = {}
        return np.array([numbers.setdefault(window.tobytes(), len(numbers)) for window in self.windows], np.int64)

    @property
    def distinct(self) -> int:
        """Number of different samples: a copy tells nothing new."""
        return int(self.texts.max(initial=-1)) + 1


def in_batches(lengths: Sequence[int], numbers: range, size: int) -> Iterator[list[int]]:
    """Samples of these numbers in batches: in order, of one length only, `size` at most."""
    batch: list[int] = []
    for i in numbers:
        if batch and (len(batch) == size or lengths[i] != lengths[batch[0]]):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def load(data: Data, encode: Encode, calibration: Calibration) -> Tokens:
    """`calibration.samples` samples of `calibration.seqlen` tokens, cut as `data.cut` says.

    Raises UsageError where there are too few."""
    cut = _texts if data.cut == "texts" else _windows
    return Tokens(data.name, cut(data, encode, calibration))


def _windows(data: Data, encode: Encode, calibration: Calibration) -> tuple[NDArray[np.int64], ...]:
    """Windows of the joined texts that do not overlap; the seed shuffles them and the first ones are taken."""
    if data.separator is None:
        ids = np.concatenate([encode(text) for text in texts(data)] or [np.zeros(0, np.int32)])
    else:
        ids = encode(data.separator.join(texts(data)))
    length, wanted = calibration.seqlen, calibration.samples
    count = len(ids) // length
    if count == 0:
        raise UsageError(
            f"{_where(data)}: {len(ids)} tokens are less than one window of calibration.seqlen={length}; "
            "give more text or a shorter seqlen"
        )
    if count < wanted:
        raise UsageError(
            f"{_where(data)}: {count} windows of calibration.seqlen={length} tokens where "
            f"calibration.samples={wanted} were asked for; use calibration.samples={count} or give more text"
        )
    order = np.random.default_rng(calibration.seed).permutation(count)[:wanted]
    return tuple(ids[i * length : (i + 1) * length].astype(np.int64) for i in order)


def _texts(data: Data, encode: Encode, calibration: Calibration) -> tuple[NDArray[np.int64], ...]:
    """The first texts in their order, each truncated, whatever the seed: Quamba's recipe (modelutils_mamba.py)."""
    samples: list[NDArray[np.int64]] = []
    for text in texts(data):
        if len(ids := encode(text)[: calibration.seqlen]):
            samples.append(ids.astype(np.int64))
        if len(samples) == calibration.samples:
            return tuple(samples)
    raise UsageError(
        f"{_where(data)}: {len(samples)} texts where calibration.samples={calibration.samples} were asked for; "
        f"use calibration.samples={len(samples)} or give more text"
    )


def _where(data: Data) -> str:
    return f"data={data.name}" + (f" data.path={data.path}" if data.path else "")
