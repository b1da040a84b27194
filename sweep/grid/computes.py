"""Device, dtype and data of a cell, resolved where the user left them open."""

from __future__ import annotations

from dataclasses import replace

from omegaconf import DictConfig, OmegaConf, open_dict

from sweep.config.config import Config, from_hydra
from sweep.core.errors import UsageError, first_line
from sweep.models.defaults import device, settled


def printed(text: str) -> str:
    """The YAML that `--cfg job` prints, with device, dtype and data as a run would have them.

    What depends on a checkpoint that is out of reach stays as it is, with the reason as a comment; what is no whole
    configuration is left alone."""
    composed = OmegaConf.create(text)
    if not isinstance(composed, DictConfig) or not {"model", "data", "device", "dtype"} <= composed.keys():
        return text
    try:
        config = from_hydra(composed)
    except UsageError:
        return text
    if config.device == "auto":
        config = replace(config, device=device())
    unsettled = ""
    try:
        config = settled(config)
    except UsageError as error:
        unsettled = f"# dtype: {config.dtype}, since the checkpoint decides and cannot be read: {first_line(error)}\n"
    values = config.to_dict()
    with open_dict(composed):
        composed.device, composed.dtype, composed.data = values["device"], values["dtype"], values["data"]
        composed.model.pop("data", None)
    return OmegaConf.to_yaml(composed) + unsettled


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
