"""The knobs of a cell, group by group, each validated where it is defined."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from sweep.config.values import expand, fraction, one_of, tidy
from sweep.core.errors import UsageError
from sweep.quantization.sites import quantized

WANDB_MODES = ("auto", "online", "offline", "disabled")
SPLITS = ("train", "heldout")
FOLDS = 8
SURE = 8  # folds at least, where their errors decide when a calibration stops (see `sweep.calibration.until`)
SHARE = 0.95
WEIGHTS = ("trained", "random")
BACKENDS = ("auto", "transformers", "mamba_ssm")
CUTS = ("windows", "texts")
GROUPING_VARIANTS = ("paper", "published")
ALL_SITES = "quantized"  # in evaluate.sites: all that a quantized Mamba keeps in few bits
RANDOM = "-random"  # ends the name of every network of random weights


@dataclass(frozen=True)
class Model:
    """The network. `path` (a local checkpoint) wins over `repo` (one on the Hugging Face Hub).

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
        expand(self, "model", "path", "tokenizer")
        object.__setattr__(self, "weights", one_of("model.weights", self.weights, WEIGHTS))
        object.__setattr__(self, "backend", one_of("model.backend", self.backend, BACKENDS))
        if self.weights == "random" and not self.name.endswith(RANDOM):
            object.__setattr__(self, "name", self.name + RANDOM)  # so that no table or plot can hide it
        if not (self.path or self.repo or (self.geometry and self.weights == "random")):
            raise UsageError(f"model={self.name} has no weights: add model.path=DIRECTORY or model.repo=OWNER/NAME")


@dataclass(frozen=True)
class Data:
    """The text. `path` (a local file or folder) wins over `repo` (a data set on the Hugging Face Hub).

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
        expand(self, "data", "path")
        object.__setattr__(self, "cut", one_of("data.cut", self.cut, CUTS))
        if self.name == "stdlib":
            object.__setattr__(self, "split", one_of("data.split", self.split, SPLITS))
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
    fisher: int = 0  # samples that are differentiated, the first ones
    ssm_state: bool = False
    text_quantiles: list[float] = field(default_factory=list)
    tolerance: Any = None  # a relative standard error, as 0.01, once validated; `samples` is then the most
    tolerance_share: Any = SHARE

    def __post_init__(self) -> None:
        object.__setattr__(self, "text_quantiles", [tidy(alpha) for alpha in self.text_quantiles])
        for alpha in self.text_quantiles:
            if not 0 < alpha <= 1:
                raise UsageError(f"calibration.text_quantiles={self.text_quantiles}: {alpha} is outside (0, 1]")
        if self.folds == 0:
            object.__setattr__(self, "folds", max(1, min(FOLDS, self.samples)))
        for key in ("samples", "seqlen", "batch_size", "folds", "shards"):
            if (value := getattr(self, key)) < 1:
                raise UsageError(f"calibration.{key}={value} must be at least 1")
        if self.seed < 0:
            raise UsageError(f"calibration.seed={self.seed} must be at least 0")
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
        object.__setattr__(self, "fisher", min(self.fisher, self.samples))  # of fewer samples, all
        if self.fisher and self.fisher < self.folds:
            raise UsageError(
                f"calibration.fisher={self.fisher} is the number of samples that are differentiated: 0 for none, else "
                f"at least calibration.folds={self.folds}, one a fold"
            )
        self._check_tolerance()

    def _check_tolerance(self) -> None:
        share = fraction("calibration.tolerance_share", self.tolerance_share, "90% or 0.9", most=1.0)
        object.__setattr__(self, "tolerance_share", share if self.tolerance is not None else SHARE)
        if self.tolerance is None:
            return
        object.__setattr__(self, "tolerance", fraction("calibration.tolerance", self.tolerance, "1% or 0.01"))
        if self.folds < SURE:
            raise UsageError(
                f"calibration.tolerance={self.tolerance} stops by the errors of the folds, which takes {SURE} of them "
                f"at least: calibration.folds={self.folds} of calibration.samples={self.samples} are too few"
            )
        if self.shards > 1:
            raise UsageError(
                f"calibration.tolerance={self.tolerance} is decided by all folds after every step, not by a shard "
                f"alone: calibration.shards={self.shards} must be 1"
            )


@dataclass(frozen=True)
class Evaluate:
    perplexity: bool = False
    sensitivity: bool = False
    sites: list[str] = field(default_factory=lambda: [ALL_SITES])
    samples: int = 64
    data: str | None = None  # stdlib, or a file or folder; None: the data set of the calibration

    def __post_init__(self) -> None:
        expand(self, "evaluate", "data")
        known = quantized()
        named = [one_of("evaluate.sites", site, (*known, ALL_SITES)) for site in self.sites]
        every = (site for name in named for site in (known if name == ALL_SITES else (name,)))
        object.__setattr__(self, "sites", list(dict.fromkeys(every)))
        if not self.sites:
            raise UsageError(f"evaluate.sites is empty; allowed: {', '.join((*known, ALL_SITES))}")
        if self.samples < 1:
            raise UsageError(f"evaluate.samples={self.samples} must be at least 1")

    def __bool__(self) -> bool:
        """True if anything is to be evaluated."""
        return self.perplexity or self.sensitivity


@dataclass(frozen=True)
class Grouping:
    """Clusters that granularity=group makes, and the algorithm: `quantization.sort_and_cluster` (paper) or
    `quantization.published_clusters` (published)."""

    head_groups: int = 4
    dim_groups: int = 4
    variant: str = "paper"

    def __post_init__(self) -> None:
        object.__setattr__(self, "variant", one_of("grouping.variant", self.variant, GROUPING_VARIANTS))
        for key in ("head_groups", "dim_groups"):
            if (value := getattr(self, key)) < 1:
                raise UsageError(f"grouping.{key}={value} must be at least 1")


VARIABLES = {"project": "WANDB_PROJECT", "entity": "WANDB_ENTITY", "group": "WANDB_RUN_GROUP"}
PROJECT = "mamba-scales"


@dataclass(frozen=True)
class Wandb:
    """Tracking. A knob that is not given has the value of W&B's own variable, which is recorded like a knob's."""

    mode: str = "auto"
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", one_of("wandb.mode", self.mode, WANDB_MODES))
        for key, variable in VARIABLES.items():
            if getattr(self, key) is None:
                object.__setattr__(self, key, os.environ.get(variable) or None)
        object.__setattr__(self, "project", self.project or PROJECT)
        if not self.tags:
            tags = [tag.strip() for tag in os.environ.get("WANDB_TAGS", "").split(",")]
            object.__setattr__(self, "tags", [tag for tag in tags if tag])
