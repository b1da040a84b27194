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

from sweep import formats, native
from sweep.errors import UsageError, allowed
from sweep.scales import Method

DTYPES = ("auto", "float32", "bfloat16", "float16")
WANDB_MODES = ("auto", "online", "offline", "disabled")
SPLITS = ("train", "heldout")
GRANULARITIES = ("tensor", "channel", "group")
FOLDS = 8
WEIGHTS = ("trained", "random")
BACKENDS = ("auto", "transformers", "mamba_ssm")
CUTS = ("windows", "texts")
# what a quantized Mamba keeps in few bits between its kernels; what is inside one (the convolution's output before
# SiLU, the scan's state) stays in full precision there
QUANTIZED = (
    *("in_proj_in", "x_conv_in", "B_conv_in", "C_conv_in"),
    *("x_conv_out", "B_conv_out", "C_conv_out", "out_proj_in"),
)
RANDOM = "-random"  # ends the name of every network of random weights


@dataclass(frozen=True)
class Model:
    """Which network. `path` (a local checkpoint) wins over `repo` (one on the Hugging Face Hub).

    geometry: what state-spaces' own config.json says of a network (d_model, n_layer, ssm_cfg, …). It is all
    that random weights need."""

    name: str
    path: str | None = None  # directory of a checkpoint; pkg://package/directory for one inside a package
    repo: str | None = None
    revision: str = "main"
    tokenizer: str | None = None  # Hub repository, directory, tokenizer.json or SentencePiece model
    geometry: dict[str, Any] | None = None
    weights: str = "trained"
    seed: int = 0  # of random weights
    backend: str = "auto"
    stream: bool = False

    def __post_init__(self) -> None:
        _one_of("model.weights", self.weights, WEIGHTS)
        _one_of("model.backend", self.backend, BACKENDS)
        if self.weights == "random" and not self.name.endswith(RANDOM):
            object.__setattr__(self, "name", self.name + RANDOM)  # so that no table or plot can hide it
        if not (self.path or self.repo or (self.geometry and self.weights == "random")):
            raise UsageError(f"model={self.name} has no weights: add model.path=DIRECTORY or model.repo=OWNER/NAME")


@dataclass(frozen=True)
class Data:
    """Which text. `path` (a local file or folder) wins over `repo` (a data set on the Hugging Face Hub).

    cut: `windows` joins all texts and cuts windows of `calibration.seqlen` tokens, shuffled by the seed;
    `texts` takes texts in order, one a sample, truncated to `calibration.seqlen` tokens."""

    name: str
    path: str | None = None
    split: str = "train"
    repo: str | None = None
    revision: str = "main"
    files: list[str] = field(default_factory=list)  # of the repository: names or patterns like en/*.json.gz
    column: str = "text"  # the key or column that holds the text
    cut: str = "windows"
    separator: str | None = None  # between joined texts; null: nothing, and each is tokenized by itself
    limit: int | None = None  # texts read at most

    def __post_init__(self) -> None:
        _one_of("data.cut", self.cut, CUTS)
        if self.name == "stdlib":
            _one_of("data.split", self.split, SPLITS)
        elif self.name == "text" and not self.path:
            raise UsageError("data=text needs a file or a folder: add data.path=FILE_OR_FOLDER")
        elif not (self.path or self.repo):
            raise UsageError(f"data={self.name} needs a source: add data.path=FILE_OR_FOLDER or data.repo=OWNER/NAME")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"data.limit={self.limit} must be at least 1, or null for no limit")


@dataclass(frozen=True)
class Calibration:
    samples: int = 512
    seqlen: int = 512
    batch_size: int = 8
    folds: int = 0  # 0: FOLDS, or one a sample where there are fewer
    seed: int = 0
    checkpoint: float = 60.0
    shards: int = 1
    shard: int | None = None
    ssm_state: bool = False
    text_quantiles: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        for alpha in self.text_quantiles:
            if not 0 < alpha <= 1:
                raise UsageError(f"calibration.text_quantiles={self.text_quantiles}: {alpha} is outside (0, 1]")
        if self.folds == 0:
            object.__setattr__(self, "folds", max(1, min(FOLDS, self.samples)))
        for key in ("samples", "seqlen", "batch_size", "folds", "shards"):
            if (value := getattr(self, key)) < 1:
                raise UsageError(f"calibration.{key}={value} must be at least 1")
        if not self.checkpoint >= 0:
            raise UsageError(f"calibration.checkpoint={self.checkpoint} are seconds between two checkpoints, 0 or more")
        if self.shards > self.folds:
            raise UsageError(
                f"calibration.shards={self.shards} exceeds calibration.folds={self.folds}: "
                "a shard is a set of whole folds; lower shards or raise folds"
            )
        if self.shard is not None and not 0 <= self.shard < self.shards:
            raise UsageError(f"calibration.shard={self.shard} is none of calibration.shards={self.shards}")
        if self.folds > self.samples:
            raise UsageError(
                f"calibration.folds={self.folds} exceeds calibration.samples={self.samples}: "
                "every fold needs a sample; lower folds or raise samples"
            )


@dataclass(frozen=True)
class Evaluate:
    perplexity: bool = False
    sensitivity: bool = False
    sites: list[str] = field(default_factory=lambda: list(QUANTIZED))
    samples: int = 64
    data: str | None = None  # stdlib, or a file or folder; None: the data set of the calibration

    def __post_init__(self) -> None:
        for site in self.sites:
            _one_of("evaluate.sites", site, QUANTIZED)
        if not self.sites:
            raise UsageError(f"evaluate.sites is empty; allowed: {', '.join(QUANTIZED)}")
        if self.samples < 1:
            raise UsageError(f"evaluate.samples={self.samples} must be at least 1")

    def __bool__(self) -> bool:
        """Whether anything is to be evaluated."""
        return self.perplexity or self.sensitivity


@dataclass(frozen=True)
class Grouping:
    """How many clusters granularity=group makes; see `sweep.grouping`."""

    head_groups: int = 4
    dim_groups: int = 4

    def __post_init__(self) -> None:
        for key in ("head_groups", "dim_groups"):
            if (value := getattr(self, key)) < 1:
                raise UsageError(f"grouping.{key}={value} must be at least 1")


@dataclass(frozen=True)
class Wandb:
    mode: str = "auto"
    project: str = "mamba-scales"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        _one_of("wandb.mode", self.mode, WANDB_MODES)


@dataclass(frozen=True)
class Config:
    """One cell of a grid, resolved."""

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
        _one_of("method", self.method, [str(m) for m in Method])
        formats.named(self.format)
        _one_of("granularity", self.granularity, GRANULARITIES)
        if self.granularity == "channel":
            self._check_maxima()
        _one_of("dtype", self.dtype, DTYPES)
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise UsageError(f"device={self.device} is unknown; allowed: cpu, cuda, cuda:N")
        if self.dtype == "auto":  # what was chosen is what is recorded, and what a calibration is known by
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
    plain = {k: v for k, v in composed.items() if k not in ("hydra", "experiment")}
    try:
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


def _one_of(key: str, value: str, choices: Any) -> None:
    if value not in choices:
        raise allowed(key, value, choices)
