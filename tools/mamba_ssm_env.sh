#!/usr/bin/env bash
# An environment with the real mamba_ssm package on a machine without a GPU: tools/mamba_ssm_env.sh DIRECTORY
# Its kernels then run in Triton's interpreter (tests/parity/mamba_ssm_on_cpu.py). It is apart from the project's
# own environment because of what the interpreter needs: triton 3.6.0 breaks with numpy 2.4.
set -euo pipefail
directory=${1:?usage: tools/mamba_ssm_env.sh DIRECTORY}
here=$(cd "$(dirname "$0")/.." && pwd)
version() { grep -m1 "^$1==" "$here/constraints.txt"; }

test -x "$directory/bin/python" || "${PYTHON:-python3}" -m venv "$directory"
pip=("$directory/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" "$(version torch)" "$(version transformers)" "$(version omegaconf)" "$(version pyarrow)" "$(version safetensors)" \
    'numpy<2.4' triton==3.6.0 einops setuptools wheel packaging ninja
# for its rotary embedding, a Triton kernel; its attention, which needs a GPU, is not built
FLASH_ATTENTION_FORCE_BUILD=TRUE FLASH_ATTENTION_SKIP_CUDA_BUILD=TRUE "${pip[@]}" --no-deps --no-build-isolation flash-attn==2.8.3
MAMBA_FORCE_BUILD=TRUE MAMBA_SKIP_CUDA_BUILD=TRUE "${pip[@]}" --no-deps --no-build-isolation mamba-ssm==2.3.2.post1
