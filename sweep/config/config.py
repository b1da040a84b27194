"""What was asked for, typed and validated once, at the edge. Nothing inside ever sees Hydra."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sweep.config import data_of_model, launch
from sweep.config import dtype as native
from sweep.config import recipe as recipes
from sweep.config.hydra_errors import unknown_key
from sweep.config.knobs import Calibration, Data, Evaluate, Grouping, Model, Wandb, one_of, tidy
from sweep.config.recipe import Choice, Recipe
from sweep.core.errors import UsageError
from sweep.core.paths import expanded
from sweep.quantization import formats
from sweep.quantization.methods import registry as methods
from sweep.quantization.methods.method import Method, Reads

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
        if math.isnan(self.alpha or 0):
            raise UsageError("alpha=nan is no quantile; allowed: a number in (0, 1]")
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
        """All that hold at some site; one without a recipe."""
        if recipe := self.chosen:
            return sorted({*recipe.sites.values(), recipe.default}, key=str)
        return [Choice(self.method, self.alpha, self.format)]

    def choice(self, layer: int, site: str) -> Choice:
        """What holds at a site of a layer; alpha is None where the method ignores it."""
        if recipe := self.chosen:
            return recipe.choice(layer, site)
        return Choice(self.method, self.effective_alpha, self.format)

    @property
    def reads_maxima(self) -> bool:
        """Whether the channel maxima of a plain calibration tell the scales of sets of channels."""
        return self.recipe is None and methods.named(self.method).reads_maxima and formats.named(self.format).symmetric

    @property
    def second_pass(self) -> bool:
        """Whether the groups, which a first pass tells, are observed in another one."""
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
        return " ".join([named, *(f"{key}={_short(value)}" for key, value in self._unusual())])

    def _unusual(self) -> Iterator[tuple[str, Any]]:
        """Knobs that are not as they are by default, as far as they can change the result."""
        usual = _USUAL.to_dict()
        usual["calibration"]["folds"] = Calibration(samples=self.calibration.samples).folds
        for group, value in self.to_dict().items():
            if group in ("calibration", "data", "evaluate", "grouping", "model") and value != usual[group]:
                skipped = {"calibration": _HOW, "model": _IN_NAME}.get(group, ())
                if self.model.name == "local" and group == "model":  # which is no name
                    skipped = tuple(key for key in _IN_NAME if key != "path")
                for key, one in value.items():
                    if one != usual[group][key] and key not in skipped and not str(one).startswith("pkg://"):
                        yield (key if group == "calibration" else f"{group}.{key}").removesuffix(".name"), one
            elif group in ("device", "dtype") and value != usual[group]:
                yield group, value

    @property
    def identity(self) -> str:
        """Digest of all that can change a cell's result, as far as the configuration knows it: cells of equal
        identity are one. How a result is come by, kept and shown is no part of it."""
        values = {k: v for k, v in self.to_dict().items() if k not in ("store", "wandb")}
        values["alpha"] = self.effective_alpha
        values["recipe"] = recipe.digest if (recipe := self.chosen) else None
        without = _HOW if self.calibration.tolerance else (*_HOW, "tolerance", "tolerance_share")
        values["calibration"] = {k: v for k, v in values["calibration"].items() if k not in without}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


_IN_NAME = (
    "name",
    "path",
    "repo",
    "tokenizer",
    "geometry",
    "weights",
    "stream",
)  # of a model: what its name stands for
_HOW = ("checkpoint", "shards", "shard")  # of a calibration: how it is computed, not what


def _short(value: Any) -> str:
    """A path by its last part, a list without brackets."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value).rstrip("/").rpartition("/")[2]


def from_hydra(composed: DictConfig) -> Config:
    """The validated configuration. Raises UsageError with key, value and what is allowed."""
    return from_dict(typed(composed))


def typed(composed: DictConfig) -> dict[str, Any]:
    """Every value converted to its knob's type, none of them judged. Raises UsageError where that fails."""
    known = [f.name for f in fields(Config)]
    groups = {f.name for f in fields(Config) if is_dataclass(_hints(Config)[f.name])}
    plain: dict[str, Any] = {}
    try:
        for key in composed:
            if key in ("hydra", *launch.KNOBS):
                continue
            if key not in known:
                raise UsageError(unknown_key(str(key)))
            plain[str(key)] = composed[key]
            if key in groups and not OmegaConf.is_dict(composed[key]):
                knobs = ", ".join(f"{key}.{f.name}" for f in fields(_hints(Config)[str(key)]))
                raise UsageError(f"{key}={composed[key]}: {key} is a group of knobs: {knobs}")
        plain |= data_of_model.chosen(composed)
        return OmegaConf.to_container(OmegaConf.merge(schema(), plain), resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise UsageError(_reworded(error, composed)) from error


def _reworded(error: OmegaConfBaseException, composed: DictConfig) -> str:
    """What is wrong with a value, in the words of the command line."""
    key, said = error.full_key or "configuration", str(error.msg or error).splitlines()[0]
    if unknown := re.match(r"Key '(.*)' not in '\w+'", said):
        return unknown_key(key if key.endswith(unknown[1]) else unknown[1])
    if "is not a ListConfig" in said:
        value = OmegaConf.select(composed, key)
        return f"{key}={value} is no list; write '{key}=[{value}]'"
    if kind := re.match(r"Value '(.*)' (?:of type '\w+' could not be converted to|is not a valid) (\w+)", said):
        wanted = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}.get(
            kind[2], f"a {kind[2]}"
        )
        return f"{key}={kind[1]} is not {wanted}"
    if said.startswith("Missing mandatory value"):
        return f"{key} is missing; add {key}=…"
    return f"{key}: {said}"


def schema() -> DictConfig:
    """Names and types of all knobs, as OmegaConf checks them."""
    structured = OmegaConf.structured(Config)
    for node in (structured, *(structured._get_node(key) for key in structured)):
        OmegaConf.set_readonly(node, False)  # a frozen class makes its schema read-only, which merge minds
    return structured  # type: ignore[no-any-return]


def from_dict(values: Mapping[str, Any]) -> Config:
    """What `to_dict` wrote. Raises UsageError for a value out of its range, or an unknown or missing key."""
    return _build(Config, values, "")  # type: ignore[no-any-return]


def _build(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    hints, known = _hints(kind), [f.name for f in fields(kind)]
    if unknown := [key for key in values if key not in known]:
        raise UsageError(f"unknown key {where}{unknown[0]}; allowed: {', '.join(known)}")
    try:
        return kind(
            **{
                key: _build(hints[key], value, f"{where}{key}.") if is_dataclass(hints[key]) else value
                for key, value in values.items()
            }
        )
    except TypeError as error:
        raise UsageError(f"{where.rstrip('.') or 'configuration'}: {error}") from error


_hints = cache(get_type_hints)  # thousands of cells are built for one plan
_USUAL = Config(Model("", path="."), Data("stdlib"))
