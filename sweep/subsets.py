"""Sets of the folds of one site: all of them, all but one, the first few. Whatever has an error is read off these.

Where a calibration counts float32, single folds are kept in bins four times as wide as those of all folds together,
which takes a third of the memory. All folds together, the answer, are read off the fine bins; what leaves one out,
for the error of that answer, off the wide ones. That moves a standard error by 8 % (root mean square; see
`tests/unit/test_subsets.py`), where one from eight folds is good to 1 / sqrt(2 x 7) = 27 % in any case.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.histogram import Histogram


@dataclass(frozen=True, eq=False)
class Subsets:
    """S sets of the K folds. members: bool [S, K]. stacks: what each set holds; their members, one stack after the
    other, are the S sets."""

    members: NDArray[np.bool_]
    stacks: tuple[Histogram, ...]

    @classmethod
    def of(cls, members: NDArray[np.bool_], folds: Histogram, pooled: Histogram | None) -> Subsets:
        """folds: a stack of K. pooled: all of them together, a stack of one; None if in the same bins as `folds`."""
        if not pooled:
            return cls(members, (folds.pick(members),))
        runs = np.split(members, np.flatnonzero(np.diff(members.all(1))) + 1)  # whole ones and others in turn
        return cls(members, tuple(pooled.pick(run[:, :1]) if run.all() else folds.pick(run) for run in runs))
