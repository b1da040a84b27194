"""What was resolved of where and how a cell computes, for those who did not say it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from omegaconf import DictConfig, OmegaConf, open_dict

from sweep.config.config import Config, from_hydra
from sweep.core.errors import UsageError
from sweep.models.defaults import device, settled


def resolved(composed: DictConfig) -> DictConfig:
    """A composed configuration with device, dtype and data as a run would have them; what cannot be known, because it
    is no configuration or the checkpoint is out of reach, stays as it is."""
    try:
        config = from_hydra(composed)
    except UsageError:
        return composed
    if config.device == "auto":
        config = replace(config, device=device())
    with suppress(UsageError):
        config = settled(config)
    values = config.to_dict()
    with open_dict(composed):
        composed.device, composed.dtype, composed.data = values["device"], values["dtype"], values["data"]
        composed.model.pop("data", None)
    return composed


def printed(text: str) -> str:
    """What `--cfg job` prints, with the defaults resolved; as it is if it is not a whole configuration."""
    composed = OmegaConf.create(text)
    if not isinstance(composed, DictConfig) or not {"model", "data", "device", "dtype"} <= composed.keys():
        return text
    return OmegaConf.to_yaml(resolved(composed))


def tell(asked: str, config: Config) -> None:
    """One line where device=auto means the CPU, since a GPU is many times faster. On the standard output,
    since an error has the other stream to itself.

    asked: the device that was asked for."""
    if asked != "auto" or config.device != "cpu":
        return
    import torch

    print(
        f"torch {torch.__version__} sees no CUDA device here: computing on the CPU, in {config.dtype}; "
        "device=cpu says that it is meant",
        flush=True,
    )
