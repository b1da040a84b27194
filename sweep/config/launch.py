"""Knobs of the harness rather than of a cell: they say what becomes of a result, never which one it is."""

from __future__ import annotations

from omegaconf import DictConfig, ListConfig, OmegaConf

from sweep.core.errors import UsageError

KNOBS = ("experiment", "objective", "overwrite")  # of conf/config.yaml; a cell's configuration is without them


def overwrite(composed: DictConfig) -> bool:
    """True if a run may replace a finished one. Raises UsageError for anything but true and false."""
    if not isinstance(value := composed.get("overwrite", False), bool):
        raise UsageError(f"overwrite={value} must be true or false")
    return value


def objectives(composed: DictConfig) -> tuple[str, ...]:
    """The columns of the summary that a sweeper optimizes; empty without any."""
    value = composed.get("objective")
    names = [] if value is None else list(value) if isinstance(value, ListConfig) else [value]
    for name in names:
        if not isinstance(name, str):
            raise UsageError(f"objective={value} is no column of the summary, for example x_conv_out/sqnr_db_mean")
    return tuple(names)


def hydra_overrides(composed: DictConfig) -> list[str]:
    """The overrides of Hydra itself, as they were typed: reading one would resolve an interpolation
    that has no value yet, such as ${hydra.job.num}."""
    typed = OmegaConf.to_container(composed.hydra.overrides.hydra, resolve=False)
    assert isinstance(typed, list)
    return [str(override) for override in typed]


def override(key: str, value: str) -> str:
    """KEY='VALUE', as Hydra's grammar reads it."""
    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{quoted}'"
