"""Text that the calibration did not see."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sweep.calibration import spec
from sweep.calibration.tokens import Tokens
from sweep.config.config import Config
from sweep.config.knobs import Data
from sweep.core.errors import UsageError
from sweep.models import load


@dataclass(frozen=True, eq=False)
class Text:
    """tokens: samples, as for a calibration. bytes: int64 [N], of the text that all but the first token of each
    sample stand for; that one is not predicted."""

    tokens: Tokens
    bytes: NDArray[np.int64]


def text(config: Config) -> Text:
    """`evaluate.samples` samples of `calibration.seqlen` tokens, none of them seen by the calibration.

    They come from `evaluate.data`: `stdlib`, a file or a folder. Without it they come from the data set of the
    calibration: of the standard library its held-out files, the same ones whatever the seed; of other data the
    samples that follow those of the calibration, which therefore depend on `calibration.samples` and `.seed`.
    Raises UsageError where there are too few."""
    # how scales are read off is no matter here, and may need of a calibration what this one is not to have
    config = replace(config, method="minmax", recipe=None, format="int8", granularity="tensor")
    data, wanted = _source(config), config.evaluate.samples
    if data == config.data:
        skipped = config.calibration.samples
        calibration = replace(config.calibration, samples=skipped + wanted, fisher=0)
    else:
        skipped, plain = 0, replace(config.calibration, folds=1, shards=1, shard=None, fisher=0)
        calibration = replace(plain, samples=wanted, seed=0)
    whole = spec.of(replace(config, data=data, calibration=calibration)).tokens
    windows = whole.windows[skipped:]
    if all(len(window) < 2 for window in windows):
        raise UsageError(
            f"data={whole.source}: none of the {len(windows)} samples to evaluate on has a second token to predict; "
            f"give longer text in evaluate.data, or raise calibration.seqlen={config.calibration.seqlen} if it is 1"
        )
    count = load.byte_counter(config.model)
    return Text(
        Tokens(whole.source, windows),
        np.array([count(window) - count(window[:1]) for window in windows], np.int64),
    )


def _source(config: Config) -> Data:
    here, asked = config.data, config.evaluate.data
    if asked in (None, "stdlib") and here.name == "stdlib" and not here.path:
        return replace(here, split="heldout")
    if asked == "stdlib":
        return Data("stdlib", split="heldout")
    if asked is None or asked == here.path:
        return here
    if here.path and _overlap(Path(asked), Path(here.path)):
        raise UsageError(
            f"evaluate.data={asked} overlaps data.path={here.path}, which is calibrated on; leave it out to "
            "evaluate on what the calibration left of it, or give other text"
        )
    return Data("text", path=asked, column=here.column)


def _overlap(a: Path, b: Path) -> bool:
    """True if one of the paths lies in the other, or they are the same."""
    first, second = a.expanduser().resolve(), b.expanduser().resolve()
    return first.is_relative_to(second) or second.is_relative_to(first)
