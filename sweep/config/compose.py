"""The configurations of many cells, without Hydra composing each of them anew (a tenth of a second apiece).

Cells that choose the same files of conf/ share one composition; `key=value` then only replaces a value in
it. Whatever is more than that (`+key=`, `~key`, interpolations, dictionaries) is left to Hydra.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

from sweep.config import data_of_model, launch
from sweep.config.config import Config, from_dict, from_hydra
from sweep.config.typed import schema, typed


class Composer:
    """compose: a job's overrides → its configuration, as its launcher will see it."""

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader = loader
        self._compose: Callable[[list[str]], DictConfig] = lambda o: loader.load_sweep_config(master, o)
        self._parser = OverridesParser.create(config_loader=loader)
        self._overrides: dict[str, Override] = {}
        self._bases: dict[tuple[str, ...], dict[str, Any] | None] = {}
        self._values: dict[str, Any] = {}

    def __call__(self, overrides: Sequence[str]) -> Config:
        """Raises whatever Hydra, OmegaConf or the validation have to say about it."""
        files = tuple(o for o in overrides if not self._plain(o))
        base = self._base(files)
        if base is not None:
            values = copy.deepcopy(base)
            try:
                for override in overrides:
                    if override not in files and self._parsed(override).key_or_group not in launch.KNOBS:
                        self._set(values, override)
                return from_dict(values)
            except Exception:  # the full composition finds the words for it, or no fault
                pass
        return from_hydra(self._compose(list(overrides)))

    def _parsed(self, override: str) -> Override:
        if override not in self._overrides:
            self._overrides[override] = self._parser.parse_override(override)
        return self._overrides[override]

    def _plain(self, text: str) -> bool:
        """True for an override that only gives a knob another value."""
        override = self._parsed(text)
        key = override.key_or_group
        return (
            override.type is OverrideType.CHANGE
            and override.package is None
            and key not in self._groups
            and not key.startswith(("hydra.", "data."))  # of which data=auto may supply the rest
            and key not in data_of_model.DEPENDS_ON
            and "$" not in text
            and not isinstance(override.value(), dict)
        )

    @cached_property
    def _groups(self) -> set[str]:
        return set(self._loader.list_groups(""))

    def _base(self, files: tuple[str, ...]) -> dict[str, Any] | None:
        """The typed values of a choice of files; None where values depend on each other."""
        if files not in self._bases:
            composed = self._compose(list(files))
            knobs = OmegaConf.masked_copy(composed, [str(k) for k in composed if k != "hydra"])
            linked = "${" in OmegaConf.to_yaml(knobs, resolve=False)
            self._bases[files] = None if linked else typed(Config, composed)
        return self._bases[files]

    def _set(self, values: dict[str, Any], text: str) -> None:
        *parents, leaf = self._parsed(text).key_or_group.split(".")
        for parent in parents:
            values = values[parent]
        if leaf not in values or isinstance(values[leaf], dict):
            raise KeyError(leaf)
        values[leaf] = self._typed(text)

    def _typed(self, text: str) -> Any:
        if text not in self._values:
            override = self._parsed(text)
            OmegaConf.update(self._schema, override.key_or_group, override.value())
            value = OmegaConf.select(self._schema, override.key_or_group)
            self._values[text] = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        return copy.copy(self._values[text])

    @cached_property
    def _schema(self) -> DictConfig:
        return schema(Config)
