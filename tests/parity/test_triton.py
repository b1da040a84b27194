"""The kernel that counts on a CUDA device, in Triton's interpreter: SWEEP_MAMBA_PYTHON names an environment with Triton
(tools/mamba_ssm_env.sh builds it). tests/gpu has the same for a device."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.harness import ROOT, require


def test_one_kernel_finds_what_torch_finds() -> None:
    python = os.environ.get("SWEEP_MAMBA_PYTHON", "")
    require(python, "SWEEP_MAMBA_PYTHON is not set: build the environment with tools/mamba_ssm_env.sh")
    script = Path(__file__).with_name("tally_cuda_on_cpu.py")
    done = subprocess.run(
        [python, str(script)], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 15
