"""Values of a composed configuration as the types of the knobs want them. OmegaConf ends here."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sweep.config import data_of_model, launch
from sweep.config.hydra_errors import unknown_key
from sweep.core.errors import UsageError

hints = cache(get_type_hints)  # thousands of cells are built for one plan


def typed(kind: type, composed: DictConfig) -> dict[str, Any]:
    """Every value converted to the type that a dataclass of knobs gives it, none of them judged.

    Raises UsageError where that fails."""
    types = hints(kind)
    known = [f.name for f in fields(kind)]
    plain: dict[str, Any] = {}
    try:
        for key in composed:
            if key in ("hydra", *launch.KNOBS):
                continue
            if key not in known:
                raise UsageError(unknown_key(str(key)))
            plain[str(key)] = composed[key]
            if is_dataclass(types[str(key)]) and not OmegaConf.is_dict(composed[key]):
                knobs = ", ".join(f"{key}.{f.name}" for f in fields(types[str(key)]))
                raise UsageError(f"{key}={composed[key]}: {key} is a group of knobs: {knobs}")
        plain |= data_of_model.chosen(composed)
        return OmegaConf.to_container(OmegaConf.merge(schema(kind), plain), resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise UsageError(_reworded(error, composed)) from error


def _reworded(error: OmegaConfBaseException, composed: DictConfig) -> str:
    """OmegaConf's complaint about a value, in the words of the command line."""
    key, said = error.full_key or "configuration", str(error.msg or error).splitlines()[0]
    if unknown := re.match(r"Key '(.*)' not in '\w+'", said):
        return unknown_key(key if key.endswith(unknown[1]) else unknown[1])
    value = OmegaConf.select(composed, key)
    if "is not a ListConfig" in said:
        return f"{key}={value} is no list; write '{key}=[{value}]'"
    if isinstance(value, ListConfig | DictConfig):
        return f"{key}={value} is {'a list' if isinstance(value, ListConfig) else 'a group'}, and {key} takes one value"
    if kind := re.match(r"Value '(.*)' (?:of type '\w+' could not be converted to|is not a valid) (\w+)", said):
        wanted = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}.get(
            kind[2], f"a {kind[2]}"
        )
        return f"{key}={kind[1]} is not {wanted}"
    if said.startswith("Missing mandatory value"):
        return f"{key} is missing; add {key}=…"
    return f"{key}: {said}"


def schema(kind: type) -> DictConfig:
    """Names and types of the knobs of a dataclass, as OmegaConf checks them."""
    structured = OmegaConf.structured(kind)
    for node in (structured, *(structured._get_node(key) for key in structured)):
        OmegaConf.set_readonly(node, False)  # a frozen class makes its schema read-only, which merge minds
    return structured  # type: ignore[no-any-return]
