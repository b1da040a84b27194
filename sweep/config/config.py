"""The configuration of a cell, typed and validated once, at the edge. Nothing inside ever sees Hydra."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any

from omegaconf import DictConfig

from sweep.config import dtype as native
from sweep.config import recipe as recipes
from sweep.config.knobs import Calibration, Data, Evaluate, Grouping, Model, Wandb
from sweep.config.label import HOW, unusual
from sweep.config.recipe import Choice, Recipe
from sweep.config.typed import hints, typed
from sweep.config.values import one_of, tidy
from sweep.core.errors import UsageError
from sweep.core.paths import expanded
from sweep.quantization import formats
from sweep.quantization.methods import registry as methods
from sweep.quantization.methods.method import Method, Reads
from sweep.quantization.sites import quantized

DTYPES = ("default", "auto", "float32", "bfloat16", "float16")
GRANULARITIES = ("tensor", "channel", "group")


@dataclass(frozen=True)
class Config:
    """One cell of a grid, resolved, but for device=auto and what depends on it (`sweep.models.defaults.settled`)."""

    model: Model
    data: Data
    calibration: Calibration = field(default_factory=Calibration)
    method: str = "percentile"
    alpha: float | None = 0.9995
    format: str = "int8"
    granularity: str = "tensor"
    grouping: Grouping = field(default_factory=Grouping)
    recipe: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    store: str = "runs/calibrations"
    evaluate: Evaluate = field(default_factory=Evaluate)
    wandb: Wandb = field(default_factory=Wandb)

    def __post_init__(self) -> None:
        object.__setattr__(self, "store", expanded("store", self.store))
        if self.recipe is not None:
            object.__setattr__(self, "recipe", expanded("recipe", self.recipe))
            self._follow(recipes.read(self.recipe))
        else:
            object.__setattr__(self, "method", one_of("method", self.method, methods.METHODS))
            object.__setattr__(self, "format", formats.named(self.format).name)
        for key, choices in {"granularity": GRANULARITIES, "dtype": DTYPES}.items():
            object.__setattr__(self, key, one_of(key, getattr(self, key), choices))
        object.__setattr__(self, "device", self.device.lower())
        if self.alpha is not None:
            object.__setattr__(self, "alpha", tidy(self.alpha))
        for choice in self.choices:
            formats.named(choice.format)
            self._check_method(methods.named(choice.method))
        if self.granularity == "channel":
            self._check_maxima()
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise UsageError(f"device={self.device} is unknown; allowed: auto, cpu, cuda, cuda:N")
        if self.dtype == native.DEFAULT and self.device == "cpu":
            object.__setattr__(self, "dtype", "float32")
        if self.dtype == "auto" and self.device != "auto":  # what is recorded, and what a calibration is known by
            object.__setattr__(self, "dtype", native.dtype(self.device))
        if self.model.stream and self.calibration.shards > 1:
            raise UsageError(
                f"model.stream=true takes layer after layer; calibration.shards={self.calibration.shards} must be 1"
            )
        if self.alpha is not None and not 0 < self.alpha <= 1:
            raise UsageError(f"alpha={self.alpha} is outside (0, 1]; for example alpha=0.9995 clips 0.05 %")
        if self.evaluate and self.model.stream:
            raise UsageError(
                "model.stream=true holds one layer at a time, evaluation needs the whole network: "
                "set model.stream=false, or evaluate.perplexity=false and evaluate.sensitivity=false"
            )

    def _follow(self, recipe: Recipe) -> None:
        """Name the cell after its recipe, which replaces method, alpha and format."""
        if self.granularity != "tensor":
            raise UsageError(
                f"recipe={self.recipe} has a choice for each layer and site, so there is one scale for each: "
                f"granularity={self.granularity} must be tensor"
            )
        for name, value in (("method", recipe.name), ("alpha", None), ("format", recipe.formats)):
            object.__setattr__(self, name, value)

    def _check_method(self, method: Method) -> None:
        if method.uses_alpha and self.alpha is None and self.recipe is None:
            raise UsageError(f"method={self.method} needs alpha, for example alpha=0.9995")
        if method.reads is Reads.FISHER and not self.calibration.fisher:
            raise UsageError(
                f"method={method} weighs errors by their gradients, which calibration.fisher=0 does not take: "
                f"add calibration.fisher={min(64, self.calibration.samples)}, the samples to differentiate"
            )

    def _check_maxima(self) -> None:
        hint = "; granularity=group takes a second pass for it"
        if not methods.named(self.method).reads_maxima:
            able = " and ".join(name for name, method in methods.METHODS.items() if method.reads_maxima)
            raise UsageError(
                f"granularity=channel reads the channel maxima, which only method={able} can use, "
                f"not method={self.method}{hint}"
            )
        if not self.reads_maxima:
            raise UsageError(
                "granularity=channel reads the channel maxima, which have no sign, "
                f"and format={self.format} needs both ends{hint}"
            )

    @property
    def chosen(self) -> Recipe | None:
        """The recipe that the cell follows."""
        return None if self.recipe is None else recipes.read(self.recipe)

    @property
    def choices(self) -> list[Choice]:
        """Every choice that some site has; a single one without a recipe."""
        if recipe := self.chosen:
            return sorted({*recipe.sites.values(), recipe.default}, key=str)
        return [Choice(self.method, self.alpha, self.format)]

    def choice(self, layer: int, site: str) -> Choice:
        """Method, alpha and format at a site of a layer; alpha is None where the method ignores it."""
        if recipe := self.chosen:
            return recipe.choice(layer, site)
        return Choice(self.method, self.effective_alpha, self.format)

    @property
    def reads_maxima(self) -> bool:
        """True if the channel maxima of a plain calibration tell the scales of sets of channels."""
        return self.recipe is None and methods.named(self.method).reads_maxima and formats.named(self.format).symmetric

    @property
    def second_pass(self) -> bool:
        """True if a second pass is needed: the first finds the groups, the second observes them."""
        return self.granularity == "group" and not self.reads_maxima

    @property
    def effective_alpha(self) -> float | None:
        """alpha where the method reads it, else None: two cells that differ only in a dead alpha are one."""
        return self.alpha if self.recipe is None and methods.named(self.method).uses_alpha else None

    @property
    def label(self) -> str:
        """A readable name made of what matters: two cells of one label differ in no knob that can change a result."""
        alpha = "" if self.effective_alpha is None else f" a={self.effective_alpha}"
        named = f"{self.model.name} {self.method}{alpha} {self.format} {self.granularity}"
        return " ".join([named, *unusual(self.to_dict(), _usual(self.calibration.samples, quantized()).to_dict())])

    @property
    def identity(self) -> str:
        """Digest of all that can change a cell's result, as far as the configuration knows it: cells of equal
        identity are one. How a result is come by, kept and shown is no part of it."""
        values = {k: v for k, v in self.to_dict().items() if k not in ("store", "wandb")}
        values["alpha"] = self.effective_alpha
        values["recipe"] = recipe.digest if (recipe := self.chosen) else None
        without = HOW if self.calibration.tolerance else (*HOW, "tolerance", "tolerance_share")
        values["calibration"] = {k: v for k, v in values["calibration"].items() if k not in without}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def from_hydra(composed: DictConfig) -> Config:
    """The validated configuration. Raises UsageError with key, value and what is allowed."""
    return from_dict(typed(Config, composed))


def from_dict(values: Mapping[str, Any]) -> Config:
    """The configuration that `to_dict` wrote. Raises UsageError for a value out of its range, and for a key that is
    unknown or missing."""
    return _build(Config, values, "")  # type: ignore[no-any-return]


def _build(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    types, known = hints(kind), [f.name for f in fields(kind)]
    if unknown := [key for key in values if key not in known]:
        raise UsageError(f"unknown key {where}{unknown[0]}; allowed: {', '.join(known)}")
    try:
        return kind(
            **{
                key: _build(types[key], value, f"{where}{key}.") if is_dataclass(types[key]) else value
                for key, value in values.items()
            }
        )
    except TypeError as error:
        raise UsageError(f"{where.rstrip('.') or 'configuration'}: {error}") from error


@cache
def _usual(samples: int, sites: tuple[str, ...]) -> Config:
    """A cell that has all defaults but for the number of samples, which that of folds follows. sites: those that are
    quantized, which evaluation rounds by default."""
    calibration, evaluate = Calibration(folds=Calibration(samples).folds), Evaluate(sites=list(sites))
    return Config(Model("", path="."), Data("stdlib"), calibration, evaluate=evaluate)
