"""Networks of published sizes with random weights: only their speed is measured."""

from __future__ import annotations

from typing import Any

import torch

# hidden size, layers of state-spaces/mamba2-* and state-spaces/mamba-*
SIZES = {"130m": (768, 24), "370m": (1024, 48), "780m": (1536, 48), "1.3b": (2048, 48), "2.7b": (2560, 64)}
VOCABULARY = 1024  # the embedding costs nothing and lm_head is not run


def mamba2(size: str, dtype: str = "float32", layers: int | None = None, chunk: int = 256) -> Any:
    """A transformers Mamba2ForCausalLM of a size: headdim 64, d_state 128, one group, as published.

    chunk: 256 is transformers' default."""
    from transformers import Mamba2Config, Mamba2ForCausalLM

    hidden, depth = SIZES[size]
    config = Mamba2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers or depth,
        state_size=128,
        n_groups=1,
        head_dim=64,
        num_heads=2 * hidden // 64,
        chunk_size=chunk,
    )
    return _ready(Mamba2ForCausalLM(config), dtype)


def mamba1(size: str, dtype: str = "float32", layers: int | None = None) -> Any:
    """A transformers MambaForCausalLM of a size."""
    from transformers import MambaConfig, MambaForCausalLM

    hidden, depth = SIZES[size]
    return _ready(
        MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=hidden, num_hidden_layers=layers or depth)),
        dtype,
    )


def _ready(lm: Any, dtype: str) -> Any:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    for parameter in lm.parameters():
        if parameter.ndim == 2 and parameter.shape[0] == VOCABULARY:
            torch.nn.init.normal_(parameter)
    return lm.eval().requires_grad_(False).to(getattr(torch, dtype))


def tokens(batch: int, seq: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, (batch, seq), generator=torch.Generator().manual_seed(1))
