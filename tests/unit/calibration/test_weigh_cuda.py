"""Squared gradients summed by a kernel for CUDA devices, without one: in numba's simulator, and compiled to PTX."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from numba import types

from sweep.calibration import weigh_cuda
from tests.harness import require, simulated


def test_in_the_simulator_its_sums_are_exact() -> None:
    assert len(simulated(Path(__file__).with_name("weigh_cuda_on_cpu.py"))) == 4


@pytest.mark.parametrize("g_like", [types.float32, types.int16, types.uint16], ids=str)
def test_it_compiles_for_a_device(monkeypatch: pytest.MonkeyPatch, g_like: types.Type) -> None:
    """The digits of a square, three at most and of bfloat16 two, are added to as integers; no float is."""
    require(find_spec("nvidia"), "NVIDIA's compiler is not installed: pip install 'numba-cuda[cu13]'")
    from numba import cuda

    hopper = (9, 0)
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: SimpleNamespace(compute_capability=hopper))
    kinds = (types.int64, types.int64)
    ptx, _ = cuda.compile_ptx(weigh_cuda._weigh.py_func, (*kinds, types.float32, g_like), cc=hopper)
    assert ptx.count("atom.add.u64") + ptx.count("atom.global.add.u64") == (2 if g_like is types.uint16 else 3)
    assert ".f64" not in "".join(line for line in ptx.splitlines() if "atom" in line)
    assert ".local" not in ptx
    ptx, _ = cuda.compile_ptx(weigh_cuda._settle.py_func, (types.int64,) * 3, cc=hopper)
    assert "atom" not in ptx
