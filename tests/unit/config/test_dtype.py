"""dtype=auto is settled when the configuration is, and recorded as what it became."""

from __future__ import annotations

import pytest

from sweep.config import dtype as native
from sweep.config.config import Config
from sweep.config.knobs import Data, Model

TINY, TEXT = Model("tiny", "pkg://sweep/models/tiny"), Data("stdlib")


@pytest.mark.parametrize(
    ("flags", "device", "dtype"),
    [
        ({"avx2"}, "cpu", "float32"),
        ({"avx2", "avx512bf16"}, "cpu", "bfloat16"),
        ({"avx2", "amx-bf16"}, "cpu", "bfloat16"),
        ({"neon", "bf16"}, "cpu", "bfloat16"),
        ({"avx2"}, "cuda:1", "bfloat16"),
    ],
)
def test_auto_takes_what_the_device_has(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], device: str, dtype: str
) -> None:
    monkeypatch.setattr(native, "_flags", lambda: flags)
    config = Config(TINY, TEXT, device=device, dtype="auto")
    assert config.dtype == config.to_dict()["dtype"] == dtype
    assert config.identity == Config(TINY, TEXT, device=device, dtype=dtype).identity


def test_the_processors_flags_are_read() -> None:
    assert native._flags() & {"sse2", "neon"}
