"""Checkpoints that hold codes in place of weights: told by what they say, by their names and by their numbers.

A code taken for a weight gives activations that are wrong by a factor, and nothing else would say so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sweep.core.errors import UsageError

_SAID = ("quantization_config", "quantization", "compression_config", "quant_config", "quantize_config")
_BESIDE = {"quantize_config.json": "GPTQ", "quant_config.json": "AWQ", "hf_quant_config.json": "ModelOpt"}
_METHODS = {
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "fbgemm_fp8": "FBGEMM float8",
    "fp8": "float8",
    "gptq": "GPTQ",
    "modelopt": "ModelOpt",
    "quanto": "Quanto",
    "torchao": "torchao",
}
_NAMES = (  # the ends of names that only a quantizer writes
    (r"\.conv1d\.(input_scale|output_scale|w?[xBC]_scale|[xBC]_out_scales|x_(head|dim)_group_range)$", "Quamba"),
    (r"\.(qweight|qzeros|g_idx)$", "GPTQ or AWQ"),
    (r"\.(SCB|weight_format|absmax|quant_map|nested_absmax|nested_quant_map)$|\.quant_state\.", "bitsandbytes"),
    (r"\.weight\.(absmax|quant_map|nested_absmax|nested_quant_map)$", "bitsandbytes"),
    (r"\.weight_(packed|shape|zero_point|global_scale|g_idx)$", "compressed-tensors"),
    (r"\.weight_scale_inv$", "block-scaled float8"),
    (r"\.(weight|input|output|activation|act|k|v)_(scale|scales|scale_2)$", "float8 or integers with scales"),
    (r"\.weight\._(data|scale|shift)$", "Quanto"),
    (r"\._packed_params|\.(zero_point|zero_points|scale)$", "torch.ao"),
    (r"\.(scales|biases)$", "MLX or GPTQ"),
)
_WEIGHTS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_COUNTERS = ("position_ids", "num_batches_tracked", "_step", "_seen")  # ends of names of integers that are no weights
_LOOK = 4096  # numbers of a tensor that tell codes from weights


def refuse_configuration(file: Path, settings: dict[str, Any]) -> None:
    """Raises UsageError where a configuration says that the weights are quantized."""
    ssm = settings.get("ssm_cfg")
    layer = json.dumps(ssm.get("layer")) if isinstance(ssm, dict) else ""
    if re.search(r"W\d+A\d+", layer + str(settings.get("model_type", ""))):
        raise _quantized(str(file.parent), "Quamba", "its ssm_cfg.layer says so", file.parent)
    for key in _SAID:
        if said := settings.get(key):
            described = said if isinstance(said, dict) else {}
            method = next((described[k] for k in ("quant_method", "quant_algo", "format") if described.get(k)), None)
            if method is None and (bits := described.get("bits") or described.get("w_bit")):
                method = f"{bits} bits"
            method = method or str(said)[:40]
            raise _quantized(str(file), _METHODS.get(str(method), str(method)), f"{key} says so")


def refuse_beside(where: object, names: Iterable[str]) -> None:
    """Raises UsageError where a file beside config.json is one that only a quantizer writes."""
    if beside := sorted(set(names) & _BESIDE.keys()):
        raise _quantized(str(where), _BESIDE[beside[0]], f"{beside[0]} lies there")


def refuse_names(file: Path, names: Iterable[str]) -> None:
    """Raises UsageError where a name is one that only a quantizer gives."""
    for name in names:
        for pattern, method in _NAMES:
            if re.search(pattern, name):
                raise _quantized(str(file), method, f"it holds {name}", file.parent)


def refuse_dtype(file: Path, name: str, dtype: torch.dtype | str) -> None:
    """Raises UsageError for a weight that is stored as anything but a floating point number of 16 bits or more.

    dtype: torch's, or the word of safetensors (F32, BF16, F8_E4M3, I8, …)."""
    wide = dtype in _WEIGHTS if isinstance(dtype, torch.dtype) else dtype in ("F64", "F32", "F16", "BF16")
    if not wide and not name.endswith(_COUNTERS):
        kind = str(dtype).removeprefix("torch.")
        raise _quantized(str(file), f"to {kind}", f"{name} is of that type")


def refuse_codes(file: Path, name: str, tensor: Tensor) -> None:
    """Raises UsageError for a matrix of whole numbers beyond one: codes, stored in a floating point type.

    Looks at a few thousand numbers: trained weights are fractions, at once and throughout."""
    if tensor.ndim < 2:
        return
    some = tensor.flatten()[:_LOOK].float()
    largest = float(some.abs().max()) if some.numel() else 0.0
    if largest > 1 and torch.equal(some, some.round()) and float(some.min()) < float(some.max()):
        raise _quantized(str(file), "to integers", f"{name} holds whole numbers only, up to {largest:g}")


def _quantized(what: str, method: str, why: str, directory: Path | None = None) -> UsageError:
    by = f" ({method}: {why})" if not method.startswith("to ") else f" {method} ({why})"
    scales = (
        f"; what scales it saved shows python -m sweep.quamba {directory}" if method == "Quamba" and directory else ""
    )
    return UsageError(
        f"{what}: the checkpoint is quantized{by}: its numbers are codes, not the weights; "
        f"calibrate the unquantized original{scales}"
    )
