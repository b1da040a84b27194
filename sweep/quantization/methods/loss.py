"""The clip that costs the network least: `mse`, with the squared gradients of values in place of their counts.

What it makes least is predicted loss (`sweep.quantization.predicted_loss`). Where no gradients are collected since
nothing quantizes there, all values weigh alike; where all of them are zero, nothing costs anything and the clip is the
largest magnitude. A clip never exceeds the largest magnitude of all that was observed, differentiated or not.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from sweep.quantization.formats import Format
from sweep.quantization.methods import minmax, mse
from sweep.quantization.methods.method import Ends, Method, Observed, Reads, argmin
from sweep.quantization.predicted_loss import Weighted, weighted
from sweep.quantization.prefix_sums import Sums


def clip(observed: Observed, alpha: float | None, format: Format) -> Ends:
    assert observed.site is not None, "loss weighs values by their gradients, which a histogram does not know"
    assert observed.members is not None
    if (gradients := weighted(observed.site)) is None:
        return mse.clip(observed.histogram, format)
    low, high = minmax.clip(observed, alpha, format)
    members = np.ascontiguousarray(observed.members)
    dead = ~(members @ gradients.weights.sum(1) > 0)
    if dead.all():
        return low, high
    sums = _sums(gradients, members.tobytes(), format.mirrored)
    ends = mse.least(low, high, format, lambda: sums)
    return np.where(dead, low, ends[0]), np.where(dead, high, ends[1])


@lru_cache(maxsize=4)  # formats share them
def _sums(gradients: Weighted, members: bytes, magnitudes: bool) -> Sums:
    """Running sums over the values, or their magnitudes, of sets of folds: members, bool [S, K], as bytes."""
    sets = np.frombuffer(members, bool).reshape(-1, len(gradients.tokens))
    x = np.abs(gradients.x) if magnitudes else gradients.x
    order = np.argsort(x, kind="stable")
    return Sums(x[order], sets.astype(np.float64) @ gradients.weights[:, order])


METHOD = Method(
    "loss",
    "the clip of least predicted loss in this format; needs calibration.fisher",
    clip,
    searches=True,
    rate=argmin,
    power=3,
    reads=Reads.FISHER,
)
