"""After how many samples a calibration may end, so that one of more samples can go on from it, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sweep.calibration.tokens import Outline, in_batches

START = 4  # samples of every fold that are there before errors are looked at


def cut(samples: int, outline: Outline, preimage: Mapping[str, Any]) -> str:
    """Why the first samples' statistics are not what one pass over all samples holds of them."""
    folds, size = preimage["folds"], preimage["batch_size"]
    for fold in range(folds):
        numbers = range(fold, len(outline.lengths), folds)
        begun = [batch[0] for batch in in_batches(outline.lengths, numbers, size)]
        later = [number for number in numbers if number >= samples]
        if later and later[0] not in begun:
            return (
                f"its last batch in fold {fold} would have been larger (folds x calibration.batch_size = "
                f"{folds * size}; multiples of it can be gone on from)"
            )
    return ""


def counts(outline: Outline, preimage: Mapping[str, Any]) -> list[int]:
    """After how many samples to look, all of them last. Whole batches in every fold, where lengths allow it, else a
    calibration could not go on from the one before. preimage: of the calibration of all samples."""
    folds, size, most = preimage["folds"], preimage["batch_size"], len(outline.lengths)
    unit = folds * size
    wanted = unit * math.ceil(START / size)
    looks: list[int] = []
    while wanted < most:
        near = range(wanted, max(wanted - unit, looks[-1] if looks else folds), -1)
        looks.append(next((n for n in near if not cut(n, outline, preimage)), wanted))
        wanted *= 2
    return [*looks, most]
