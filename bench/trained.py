"""Small networks that are trained for a minute or two: of random weights no ranking of settings says anything."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers

from sweep.calibration.text import texts
from sweep.config.knobs import Data
from sweep.models import load
from sweep.models.kernels.selective_scan import selective_scan

VOCABULARY, LENGTH, BATCH, RATE = 264, 128, 12, 3e-3
TINY = Path(load.__file__).parent / "tiny"  # its tokenizer reads bytes
CONFIGS: dict[str, dict[str, Any]] = {
    "mamba": {"hidden_size": 96, "num_hidden_layers": 4, "state_size": 8},
    "bamba": {
        "hidden_size": 128, "num_hidden_layers": 4, "attn_layer_indices": [2], "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 256, "mamba_n_heads": 8, "mamba_d_head": 32, "mamba_n_groups": 2,
        "mamba_d_state": 16, "mamba_chunk_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    },
}  # fmt: skip


def _quick_scan(lm: Any) -> None:
    """Our scan in place of the one that the network's module has for a CPU, 50 times as fast. It hands A no gradient,
    so A stays what it began with."""
    module = sys.modules[type(lm).__module__]
    if hasattr(module, "mamba_selective_scan"):
        module.mamba_selective_scan = selective_scan  # this process does nothing but train


def train(family: str, directory: Path, steps: int) -> float:
    """A network of transformers', trained on the standard library's bytes and saved; returns its last nats a byte."""
    torch.manual_seed(0)
    settings = transformers.AutoConfig.for_model(family, vocab_size=VOCABULARY, **CONFIGS[family])
    lm = transformers.AutoModelForCausalLM.from_config(settings)
    _quick_scan(lm)
    text = "".join(texts(Data("stdlib"))).encode()
    ids = torch.frombuffer(bytearray(text), dtype=torch.uint8).long() + 3
    optimizer = torch.optim.AdamW(lm.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.1)
    generator, losses = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        starts = torch.randint(len(ids) - LENGTH, (BATCH, 1), generator=generator)
        window = ids[starts + torch.arange(LENGTH + 1)]
        logits = lm(window[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimizer.step()
        rate.step()
        losses.append(float(loss.detach()))
    lm.save_pretrained(directory)
    shutil.copy(TINY / "tokenizer_config.json", directory)
    return sum(losses[-20:]) / len(losses[-20:])


if __name__ == "__main__":  # in a process of its own, since it puts another scan into transformers
    print(train(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
