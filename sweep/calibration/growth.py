"""Going on from a stored calibration: the samples that it holds are not passed again.

The first N samples of a seed are the same for every N. Samples are dealt into folds in turn, so each fold of a
calibration of fewer samples holds the first of a larger one's, and histograms, extremes and quantiles of texts are
added to it in any order. What depends on the order, the sums of |x| per channel and of squared gradients, goes on from
where it ended. What is left is the batches: a sample's activations depend, in their last bits, on the batch it passes
in, so every batch has to be the one it would have been. Then the result is the same, bit for bit, as of one pass.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.calibration.boundaries import cut
from sweep.calibration.cache import CalibrationStore
from sweep.calibration.checkpoint import Checkpoint
from sweep.calibration.tokens import Outline
from sweep.core.errors import UsageError
from sweep.core.store import Damaged
from sweep.core.store_key import Key, differences
from sweep.quantization.statistics import Statistics


@dataclass(frozen=True)
class Step:
    """A calibration of the first samples of another's, or of more. why_not: why that one cannot go on from it, or be
    read off it; empty if it can go on."""

    key: Key
    samples: int
    why_not: str


@dataclass(frozen=True, eq=False)
class Base:
    """The stored calibration that another one goes on from."""

    key: Key
    samples: int
    statistics: Statistics

    @property
    def record(self) -> dict[str, object]:
        """The entry for a manifest and a run's record."""
        return {"key": self.key.hash, "entry": str(self.key), "samples": self.samples}

    def work(self, work: Path) -> Path:
        """The part of a work area that holds later samples than this one's, and only those."""
        return _work(work, self.key)


def steps(key: Key, outline: Outline, others: Iterable[Key]) -> list[Step]:
    """The steps towards `key` among stored calibrations: those that hold its first samples, of the same network and
    observed for the same things, most samples first."""
    known = {fingerprint: n for n, fingerprint in enumerate(outline.fingerprints[:-1])}
    found = []
    for other in others:
        there, here = dict(other.preimage), dict(key.preimage)
        samples = known.get(there.pop("tokens", ""), 0)
        del here["tokens"]
        here |= _first_differentiated(samples, here)
        if samples and there.get("model") == here["model"] and there.keys() == here.keys():
            found.append(Step(other, samples, "; ".join(differences(there, here)) or cut(samples, outline, here)))
    return sorted(found, key=lambda step: -step.samples)


def larger(key: Key, others: Iterable[Key], outline: Callable[[int], Outline | None]) -> Step | None:
    """A stored calibration that has passed all samples of `key` and more, and why the first ones cannot be read off it;
    None where there is none. outline: of so many samples of the text of `key`, None where it has not so many.

    Every fold holds samples up to the last, of which only sums are kept: the first N would have to be whole folds,
    which they are where every fold is one sample, and then of 16 bits only, since float32 pools the folds."""
    samples = _samples(key)
    for other in others:
        there, here = dict(other.preimage), dict(key.preimage)
        tokens = {there.pop("tokens", ""), here.pop("tokens")}
        for preimage in (there, here):
            preimage.pop("fisher", None)
        if there != here or (number := _samples(other)) <= samples:
            continue
        whole = outline(number)
        if whole and {whole.fingerprints[samples], whole.fingerprints[-1]} == tokens:
            folds = key.preimage["folds"]
            why = f"fold k of {folds} keeps the sums of samples k, k + {folds}, … up to the last, and no part of them"
            return Step(other, number, why)
    return None


def _samples(key: Key) -> int:
    """Number of samples of a calibration, by its name; 0 where that does not say."""
    named = re.search(r"-(\d+)x\d+$", key.prefix)
    return int(named[1]) if named else 0


def _first_differentiated(samples: int, preimage: dict[str, Any]) -> dict[str, Any]:
    """The preimage's entry for squared gradients, as a calibration of the first samples alone would have it."""
    if "fisher" not in preimage:
        return {}
    return {"fisher": preimage["fisher"] | {"samples": min(samples, preimage["fisher"]["samples"])}}


def base(store: CalibrationStore, key: Key, outline: Outline) -> Base | None:
    """The base of `key`: the stored calibration that leaves the least to do, unless more was done before without it.
    Says so on stderr, and why it is not one of more samples."""
    samples, folds, size = len(outline.lengths), int(key.preimage["folds"]), int(key.preimage["batch_size"])

    def rank(work: Path, since: int) -> tuple[bool, int]:
        return any((work / "layers").glob("layer-*")), since + Checkpoint(work, 0).passed(since, samples, folds, size)

    found, furthest, why_not = None, rank(store.work(key), 0), ""
    for step in steps(key, outline, store.keys()):
        there = f"{step.key} holds {step.samples} of {samples} samples"
        if step.why_not:
            if not found and not why_not:
                why_not = f"{there} but cannot be gone on from: {step.why_not}"
            continue
        if (done := rank(_work(store.work(key), step.key), step.samples)) <= furthest:
            continue
        try:
            statistics = store.read(step.key)
        except (Damaged, OSError, UsageError) as error:
            print(f"{there} but is damaged: {error}", file=sys.stderr, flush=True)
            continue
        if statistics:  # else it was pruned this moment
            found, furthest = Base(step.key, step.samples, statistics), done
    if why_not:
        print(why_not, file=sys.stderr, flush=True)
    if found:
        there = f"{found.samples} of {samples} samples are there, in {found.key}"
        print(f"{key}: {there}; computing {samples - found.samples} more", file=sys.stderr, flush=True)
    return found


def _work(work: Path, base: Key) -> Path:
    return work / f"from-{base.hash[:16]}"
