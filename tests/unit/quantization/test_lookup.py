"""`Lookup` finds what bisection finds."""

from __future__ import annotations

import numpy as np
import pytest

from sweep.quantization.lookup import Lookup

RNG = np.random.default_rng(0)
VALUES = {
    "nothing": np.empty(0),
    "zero alone": np.zeros(1),
    "half precision": np.unique(np.abs(RNG.standard_cauchy(20_000)).astype(np.float16).astype(np.float64)),
    "middles between half-precision values": np.arange(0.5, 4000) * 2.0**-9,
    "many in one key": 1 + np.arange(500) * 2.0**-40,
    "more octaves than are told apart": np.sort(np.exp(RNG.uniform(-85, 85, 3000))),
    "subnormal numbers": np.arange(1, 200) * 2.0**-1074,
    "beyond single precision": np.array([0.0, 1.0, 1e39, 1e300]),
    "equal ones": np.repeat([0.0, 1.0, 2.5], 7),
    "both signs": np.sort(RNG.standard_normal(999)),
}


@pytest.mark.parametrize("x", VALUES.values(), ids=VALUES)
def test_places_are_those_of_bisection(x: np.ndarray) -> None:
    near = np.concatenate([x, np.nextafter(x, np.inf), np.nextafter(x, -np.inf), x * (1 + 2.0**-25)])
    y = np.concatenate([near, -near, RNG.choice(near, 50) if len(x) else [3.0], [0.0, -0.0, np.inf, -np.inf, np.nan]])
    y = y[: len(y) // 2 * 2].reshape(2, -1)
    np.testing.assert_array_equal(Lookup(x).below(y), np.searchsorted(x, y))
