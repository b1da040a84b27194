"""data=auto: the text that a model's field calibrates on, which the files of conf/model name."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from sweep.config.hydra_errors import CONF
from sweep.core.errors import allowed

DEPENDS_ON = ("model.weights", "model.data")  # and on all of `data`


def chosen(composed: DictConfig) -> dict[str, Any]:
    """`model` and `data` as a cell knows them: data=auto replaced by the data set that `model.data` names, stdlib for
    random weights, whose tokens are bytes; single values of `data` that were given win. Raises UsageError
    for a name that no file has."""
    model, data = composed.model.copy(), composed.data
    with open_dict(model):
        name = model.pop("data", "stdlib")
    if not OmegaConf.is_missing(data, "cut"):  # which only data=auto leaves open
        return {"model": model, "data": data}
    name = "stdlib" if model.get("weights") == "random" else name
    given = {key: data[key] for key in data if not OmegaConf.is_missing(data, key) and data[key] != "auto"}
    return {"model": model, "data": OmegaConf.merge(_file("_base"), _file(name), given)}


def _file(name: str) -> DictConfig:
    if not (path := CONF / "data" / f"{name}.yaml").is_file():
        raise allowed("model.data", name, sorted(p.stem for p in path.parent.glob("[!_]*.yaml") if p.stem != "auto"))
    loaded = OmegaConf.load(path)
    assert isinstance(loaded, DictConfig)
    loaded.pop("defaults", None)
    return loaded
