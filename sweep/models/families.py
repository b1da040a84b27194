"""The families of transformers' networks that can be observed; one more is one entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """Adapter of the networks of one model_type.

    mixer: gives the `sweep.models.mixer.Mixer` that a module is, None for another module; left out where the
    attributes have transformers' usual names (`sweep.models.mixer.described`). reads: keys of config.json that
    transformers' class reads without declaring them. activation: the key that names the function after the
    convolution, None where there is no choice."""

    model_type: str
    mixer: Callable[[Any], Any] | None = None
    reads: tuple[str, ...] = ()
    activation: str | None = "hidden_act"


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family("mamba", reads=("intermediate_size",)),
        Family("mamba2"),
        Family("falcon_mamba", reads=("intermediate_size", "use_falcon_mambapy")),
        Family("jamba"),
        Family("zamba", activation="hidden_mamba_act"),
        Family("zamba2", activation=None),
        Family("bamba"),
        Family("falcon_h1"),
        Family(
            "nemotron_h",
            reads=(
                *("hybrid_override_pattern", "mtp_hybrid_override_pattern", "mamba_chunk_size", "mamba_conv_bias"),
                *("mamba_d_conv", "mamba_dt_init_floor", "mamba_dt_limit", "mamba_dt_max", "mamba_dt_min"),
                *("mamba_expand", "mamba_n_groups", "num_hidden_layers"),
            ),
            activation="mamba_hidden_act",
        ),
        Family("granitemoehybrid"),
    )
}


def supported() -> str:
    """Names of all that can be observed, for messages."""
    return f"{', '.join(FAMILIES)} (transformers), and mamba_ssm's Mamba1 and Mamba2"
