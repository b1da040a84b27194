"""Recipes: for every layer and site a method, an alpha and a format of its own, in a small YAML file.

    schema: 1
    model: tiny                                                   # made for this one
    default: {method: mse, alpha: null, format: int8}             # at sites that nothing quantizes
    layers:
      0:
        in_proj_in: {method: percentile, alpha: 0.9999, format: int4, loss: 0.00012}
        …

Everything else in it (where it comes from, what it is predicted to cost) is for readers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import yaml

from sweep.core.errors import UsageError, first_line
from sweep.quantization import formats, sites
from sweep.quantization.methods import registry as methods
from sweep.quantization.types import SiteKey

SCHEMA = 1


@dataclass(frozen=True, order=True)
class Choice:
    """Method, alpha and format of one site. alpha is None where the method ignores it."""

    method: str
    alpha: float | None
    format: str

    def __str__(self) -> str:
        return f"{self.method}{'' if self.alpha is None else f' {self.alpha:.10g}'} {self.format}"


@dataclass(frozen=True, eq=False)
class Recipe:
    """path: the file. model: the one it was made for. default: at sites it does not name, which nothing quantizes.
    written: all that the file says, plain."""

    path: Path
    model: str
    default: Choice
    sites: Mapping[SiteKey, Choice]
    written: dict[str, Any]

    def choice(self, layer: int, site: str) -> Choice:
        """The choice for a site. A site before SiLU, which nothing quantizes, has that of the site after it, so that
        the two compare."""
        after = sites.after(site)
        return self.sites.get((layer, site)) or self.sites.get((layer, after or site)) or self.default

    @property
    def name(self) -> str:
        """`recipe bits6` of a file recipe-bits6.yaml."""
        return f"recipe {self.path.stem.removeprefix('recipe').strip('-_. ')}".strip()

    @property
    def formats(self) -> str:
        """The formats in it, of few bits first: `int4+int8`."""
        names = {choice.format for choice in self.sites.values()}
        return "+".join(sorted(names, key=lambda name: (formats.named(name).bits, name)))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that the recipe decides; where its file lies does not matter."""
        every = [[layer, site, str(choice)] for (layer, site), choice in sorted(self.sites.items())]
        return hashlib.sha256(json.dumps([every, str(self.default)]).encode()).hexdigest()


def read(path: str) -> Recipe:
    """The recipe in a file. Raises UsageError, one line, that says what is wrong in it and where."""
    file = Path(path).expanduser()
    try:
        stamp = file.stat()
        return _read(file, (stamp.st_size, stamp.st_mtime_ns))
    except OSError as error:
        raise UsageError(f"recipe={path}: {error.strerror or error}; python -m sweep.recipe writes one") from error


@lru_cache(maxsize=8)  # a grid's cells ask in turn
def _read(file: Path, stamp: tuple[int, int]) -> Recipe:
    try:
        written = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}:" if where else ""
        problem = first_line(ValueError(getattr(error, "problem", None) or "no text in UTF-8"))
        raise UsageError(f"recipe={file}:{line} not readable as YAML ({problem})") from error
    if not isinstance(written, dict):
        raise UsageError(f"recipe={file}: a recipe is a mapping with `layers`, this is no mapping")
    if written.get("schema") != SCHEMA:
        raise UsageError(f"recipe={file}: schema {written.get('schema')} is unknown; this version reads {SCHEMA}")
    layers = written.get("layers")
    if not isinstance(layers, dict) or not layers:
        raise UsageError(f"recipe={file}: `layers` has to map numbers of layers to sites, and is empty or no mapping")
    choices: dict[SiteKey, Choice] = {}
    for layer, chosen in layers.items():
        if isinstance(layer, bool) or not isinstance(layer, int) or layer < 0 or not isinstance(chosen, dict):
            raise UsageError(f"recipe={file}: layers.{layer} is no number of a layer with a mapping of sites")
        for site, entry in chosen.items():
            choices[layer, str(site)] = _choice(file, f"layers.{layer}.{site}", entry)
    return Recipe(file, str(written.get("model")), _choice(file, "default", written.get("default")), choices, written)


def _choice(file: Path, where: str, entry: Any) -> Choice:
    if not isinstance(entry, dict) or not {"method", "format"} <= entry.keys():
        raise UsageError(f"recipe={file}: {where} has to be {{method: …, alpha: …, format: …}}, not {entry}")
    try:
        method, format = methods.named(str(entry["method"])), formats.named(str(entry["format"]))
    except UsageError as error:
        raise UsageError(f"recipe={file}: {where}: {error}") from None
    alpha = entry.get("alpha")
    if not method.uses_alpha:
        return Choice(method.name, None, format.name)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha <= 1:
        raise UsageError(f"recipe={file}: {where}: alpha={alpha} of {method} is no number in (0, 1]")
    return Choice(method.name, float(alpha), format.name)
