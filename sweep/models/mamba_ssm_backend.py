"""The mamba_ssm back end: the authors' own models and CUDA kernels."""

from __future__ import annotations

import importlib.util
import os
from importlib import metadata
from typing import Any

import torch

from sweep.core.errors import UsageError
from sweep.models.assemble import Source, fill
from sweep.models.mamba_ssm_config import to_mamba_ssm
from sweep.models.stack import Stack


def available() -> bool:
    """True if mamba_ssm is installed."""
    return importlib.util.find_spec("mamba_ssm") is not None


def check(device: str) -> None:
    """Raises UsageError where the back end cannot run."""
    if not available():
        raise UsageError("model.backend=mamba_ssm: the package is not installed: pip install -e '.[cuda]'")
    if not device.startswith("cuda") and not os.environ.get("TRITON_INTERPRET"):
        raise UsageError(
            f"model.backend=mamba_ssm has kernels for CUDA only, but device={device}; "
            "use device=cuda or model.backend=transformers"
        )


def expresses(config: Any) -> bool:
    """True if the installed packages can build a network: rotary embeddings come from flash_attn."""
    return not (isinstance(config, Stack) and config.rotary) or importlib.util.find_spec("flash_attn") is not None


def version() -> str:
    """The packages that are installed, with their versions: what scans and what convolves round in their own ways."""
    packages = ("mamba_ssm", "causal_conv1d", "triton")
    return " ".join(f"{p} {_version(p)}" for p in packages if importlib.util.find_spec(p))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a source tree, or a triton that is distributed under another name
        return "unknown"


def network(config: Any, source: Source, dtype: torch.dtype, device: str) -> Any:
    """mamba_ssm's MambaLMHeadModel for a transformers MambaConfig or Mamba2Config or a Stack, weights from `source`.

    A_log and D of Mamba-1 and D of Mamba-2 stay float32, as the package has them."""
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    if not expresses(config):
        raise UsageError(
            "model.backend=mamba_ssm: the attention's rotary embeddings need flash_attn, which is not installed: "
            "pip install flash-attn, or use model.backend=transformers"
        )
    words = config.settings if isinstance(config, Stack) else to_mamba_ssm(config)
    settings = MambaConfig(**words, fused_add_norm=device.startswith("cuda"))
    with torch.device("meta"):
        lm = MambaLMHeadModel(settings, dtype=dtype)
    fill(lm, source, lambda name: name.replace("backbone.embedding.", "backbone.embeddings."), None, device)
    for module in lm.modules():
        if hasattr(module, "inv_freq"):  # a buffer of flash_attn's rotary embedding, computed and not saved
            module.inv_freq = module._compute_inv_freq(device=device)
    lm.tie_weights()
    known = config.common if isinstance(config, Stack) else config
    for module in lm.modules():
        if hasattr(module, "eps"):  # of the norms, which mamba_ssm's configuration does not know
            module.eps = known.layer_norm_epsilon
    return lm.eval()
