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
    "many in the second key": np.append(1.0, 1 + 2.0**-10 + np.arange(9) * 2.0**-20),
    "equal ones": np.repeat([0.0, 1.0, 2.5], 7),
    "both signs": np.sort(RNG.standard_normal(999)),
}


@pytest.mark.filterwarnings("error")  # what lies beyond single precision is no news to a user
@pytest.mark.parametrize("x", VALUES.values(), ids=VALUES)
def test_places_are_those_of_bisection(x: np.ndarray) -> None:
    near = np.concatenate([x, np.nextafter(x, np.inf), np.nextafter(x, -np.inf), x * (1 + 2.0**-25)])
    y = np.concatenate([near, -near, RNG.choice(near, 50) if len(x) else [3.0], [0.0, -0.0, np.inf, -np.inf, np.nan]])
    y = y[: len(y) // 2 * 2].reshape(2, -1)
    np.testing.assert_array_equal(Lookup(x).below(y), np.searchsorted(x, y))


@pytest.mark.parametrize("least", [0.0, 2.0**-20, 1.0])
def test_none_but_small_values_are_bisected(least: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 octaves, of which the upper 32 have keys of their own: 2^32 … 2^64."""
    x = np.concatenate([np.full(99, least), np.exp2(np.arange(1, 65))])
    lookup, bisect, bisected = Lookup(x), np.searchsorted, list[float]()

    def counting(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        bisected.extend(y.tolist())
        return bisect(x, y)

    monkeypatch.setattr(np, "searchsorted", counting)
    y = np.array([-1.0, least, 5.0, 2.0**31, 2.0**33, 3 * 2.0**40, 2.0**64, 2.0**65])
    assert lookup.below(y).tolist() == [0, 0, 101, 129, 131, 140, 162, 163]
    assert bisected == y[:4].tolist()


def test_a_value_is_compared_with_few_others() -> None:
    """Half-precision values have a key each, and the many that lie below all keys are not gone through one by one."""
    half = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    assert Lookup(half)._most == 1
    assert Lookup(np.concatenate([np.zeros(9999), half[-99:]]))._most == 1
