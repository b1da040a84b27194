"""What was asked for, typed and validated once, at the edge. Nothing inside ever sees Hydra."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sweep.config import data_of_model, launch
from sweep.config import dtype as native
from sweep.config.knobs import Calibration, Data, Evaluate, Grouping, Model, Wandb, one_of
from sweep.core.errors import UsageError
from sweep.core.paths import expanded
from sweep.quantization import formats
from sweep.quantization.methods.registry import Method

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
    device: str = "cpu"
    dtype: str = "float32"
    store: str = "runs/calibrations"
    evaluate: Evaluate = field(default_factory=Evaluate)
    wandb: Wandb = field(default_factory=Wandb)

    def __post_init__(self) -> None:
        object.__setattr__(self, "store", expanded("store", self.store))
        one_of("method", self.method, [str(m) for m in Method])
        formats.named(self.format)
        one_of("granularity", self.granularity, GRANULARITIES)
        if self.granularity == "channel":
            self._check_maxima()
        one_of("dtype", self.dtype, DTYPES)
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise UsageError(f"device={self.device} is unknown; allowed: auto, cpu, cuda, cuda:N")
        if self.dtype == native.DEFAULT and self.device == "cpu":
            object.__setattr__(self, "dtype", "float32")
        if (
            self.dtype == "auto" and self.device != "auto"
        ):  # what was chosen is what is recorded, and what a calibration is known by
            object.__setattr__(self, "dtype", native.dtype(self.device))
        if self.model.stream and self.calibration.shards > 1:
            raise UsageError(
                f"model.stream=true takes layer after layer; calibration.shards={self.calibration.shards} must be 1"
            )
        if Method(self.method).uses_alpha and self.alpha is None:
            raise UsageError(f"method={self.method} needs alpha, for example alpha=0.9995")
        if self.alpha is not None and not 0 < self.alpha <= 1:
            raise UsageError(f"alpha={self.alpha} is outside (0, 1]; for example alpha=0.9995 clips 0.05 %")
        if math.isnan(self.alpha or 0):
            raise UsageError("alpha=nan is no quantile; allowed: a number in (0, 1]")
        if self.evaluate and self.model.stream:
            raise UsageError(
                "model.stream=true holds one layer at a time, evaluation needs the whole network: "
                "set model.stream=false, or evaluate.perplexity=false and evaluate.sensitivity=false"
            )

    def _check_maxima(self) -> None:
        hint = "; granularity=group takes a second pass for it"
        if self.method != Method.MINMAX:
            raise UsageError(
                "granularity=channel reads the channel maxima, which only method=minmax can use, "
                f"not method={self.method}{hint}"
            )
        if not self.reads_maxima:
            raise UsageError(
                "granularity=channel reads the channel maxima, which have no sign, "
                f"and format={self.format} needs both ends{hint}"
            )

    @property
    def reads_maxima(self) -> bool:
        """Whether the channel maxima of a plain calibration tell the scales of sets of channels."""
        return self.method == Method.MINMAX and formats.named(self.format).symmetric

    @property
    def second_pass(self) -> bool:
        """Whether the groups, which a first pass tells, are observed in another one."""
        return self.granularity == "group" and not self.reads_maxima

    @property
    def effective_alpha(self) -> float | None:
        """alpha where the method reads it, else None: two cells that differ only in a dead alpha are one."""
        return self.alpha if Method(self.method).uses_alpha else None

    @property
    def label(self) -> str:
        """A readable name made of what matters."""
        alpha = "" if self.effective_alpha is None else f" a={self.effective_alpha}"
        return f"{self.model.name} {self.method}{alpha} {self.format} {self.granularity}"

    @property
    def identity(self) -> str:
        """Digest of all that can change a cell's result, as far as the configuration knows it: cells of equal
        identity are one. How a result is come by, kept and shown is no part of it."""
        values = {k: v for k, v in self.to_dict().items() if k not in ("store", "wandb")}
        values["alpha"] = self.effective_alpha
        values["calibration"] = {k: v for k, v in values["calibration"].items() if k not in _HOW}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


_HOW = ("checkpoint", "shards", "shard")  # of a calibration: how it is computed, not what


def from_hydra(composed: DictConfig) -> Config:
    """The validated configuration. Raises UsageError with key, value and what is allowed."""
    return from_dict(typed(composed))


def typed(composed: DictConfig) -> dict[str, Any]:
    """Every value converted to its knob's type, none of them judged. Raises UsageError where that fails."""
    plain = {k: v for k, v in composed.items() if k not in ("hydra", *launch.KNOBS)}
    try:
        plain |= data_of_model.chosen(composed)
        return OmegaConf.to_container(OmegaConf.merge(schema(), plain), resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        key = error.full_key or "configuration"
        raise UsageError(f"{key}: {str(error.msg or error).splitlines()[0]}") from error


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
