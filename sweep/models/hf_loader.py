"""Networks that are not put together tensor by tensor (hybrids, and Falcon-Mamba), by transformers' own loader.

It takes the tensors one by one from `Weights`: from the files it would hold what it converts twice.
"""

from __future__ import annotations

import copy
import os
import warnings
from typing import Any

import torch

from sweep.core.errors import UsageError, first_line
from sweep.models import assemble, verify
from sweep.models.checkpoint_dir import Checkpoint
from sweep.models.families import supported


def network(name: str, shape: Any, source: Checkpoint | None, seed: int, dtype: torch.dtype, device: str) -> Any:
    """The causal LM of a transformers configuration with a checkpoint's weights, random ones without a source.

    name: the model's, for messages. shape: the configuration; on a CPU its chunk size is set to what is fast there.
    Raises UsageError where configuration, files and weights do not fit together; that memory does not suffice is for
    the caller to word."""
    os.environ.setdefault("HF_DEACTIVATE_ASYNC_LOAD", "1")  # its threads read all tensors before the first is needed
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if not is_causal(shape):
        raise UsageError(f"model={name}: {shape.model_type} is no causal language model; supported are {supported()}")
    kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(shape)]
    for key in ("chunk_size", "mamba_chunk_size"):
        if device == "cpu" and hasattr(shape, key):
            setattr(shape, key, assemble.CPU_CHUNK)
    try:
        if source is None:
            torch.manual_seed(seed)
            lm = transformers.AutoModelForCausalLM.from_config(shape, dtype=dtype, trust_remote_code=False)
            return lm.eval().requires_grad_(False).to(device)
        if getattr(shape, "rescale_prenorm_residual", False):
            shape = copy.deepcopy(shape)
            shape.rescale_prenorm_residual = False  # of initial weights; transformers divides loaded ones, too
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lm, report = kind.from_pretrained(
                None,
                config=shape,
                state_dict=source.weights.later(),
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are reported, and refused below by name
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except UsageError as error:
        raise UsageError(f"model={name}: {error}") from error
    except Exception as error:  # every library below has errors of its own for a bad file
        raise UsageError(f"model={name} cannot be loaded: {first_line(error)}") from error
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if names := sorted(key if isinstance(key, str) else key[0] for key in report.get(what, ())):
            raise UsageError(
                f"{source.path}: the weights do not fit config.json: {what.replace('_', ' ')}: "
                f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
            )
    if differing := verify.differing(lm, source.weights):
        raise UsageError(
            f"{source.path}: transformers {transformers.__version__} does not load the weights as they are stored: "
            f"{', '.join(differing[:3])}{' …' if len(differing) > 3 else ''}; another version may"
        )
    return lm.eval().requires_grad_(False).to(device)


def is_causal(shape: Any) -> bool:
    """True if transformers has a causal language model for a configuration."""
    import transformers

    return type(shape) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
