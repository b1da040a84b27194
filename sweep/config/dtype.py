"""Which number format a processor multiplies natively."""

from __future__ import annotations

from functools import cache
from pathlib import Path

FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}  # Intel's tiles, Intel's and AMD's vectors, ARM's


DEFAULT = "default"  # float32 on a CPU; on a CUDA device `sweep.models.defaults` knows


def dtype(device: str) -> str:
    """bfloat16 on CUDA and on a CPU with instructions for it, else float32 (also where the CPU cannot be asked)."""
    return "bfloat16" if device.startswith("cuda") or FLAGS & _flags() else "float32"


@cache
def _flags() -> set[str]:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return {word for line in lines if line.startswith(("flags", "Features")) for word in line.split()}
