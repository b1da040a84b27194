"""The number format that a processor multiplies natively."""

from __future__ import annotations

from functools import cache

FLAGS = {"amx-bf16", "avx512bf16", "bf16"}  # LLVM's names of Intel's tiles, Intel's and AMD's vectors, ARM's
DEFAULT = "default"  # float32 on a CPU; on a CUDA device `sweep.models.defaults` knows


def dtype(device: str) -> str:
    """bfloat16 on CUDA and on a CPU with instructions for it, else float32."""
    return "bfloat16" if device.startswith("cuda") or FLAGS & _flags() else "float32"


@cache
def _flags() -> set[str]:
    from llvmlite import binding  # which numba brings; a twentieth of a second that only dtype=auto pays

    return {name for name, present in binding.get_host_cpu_features().items() if present}
