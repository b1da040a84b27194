"""Samples that repeat are counted once."""

from __future__ import annotations

import numpy as np

from sweep.calibration.tokens import Tokens


def test_copies_are_told_from_samples() -> None:
    a, b = np.arange(4), np.arange(4) + 1
    tokens = Tokens("x", (a, b, a.copy(), a[:3], b))
    assert tokens.texts.tolist() == [0, 1, 0, 2, 1]
    assert tokens.distinct == 3
    assert Tokens("x", ()).distinct == 0
