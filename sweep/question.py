"""What a cell asks of the activations: which tokens of which model, computed how. Equal questions, one answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

from sweep import tokens
from sweep.config import Calibration, Config, Data, Model
from sweep.models import load
from sweep.statistics import SCHEMA
from sweep.store import Key, Store
from sweep.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Question:
    """store and key: where the answer lies, or will. tokens: what is to be read."""

    store: Store
    key: Key
    tokens: Tokens


def of(config: Config) -> Question:
    """The question of a cell; weights, text and tokens are read once per process.

    Raises UsageError where the model or the data set cannot be had."""
    text = replace(config.calibration, batch_size=1, folds=1, checkpoint=0, shards=1, shard=None)
    windows = _tokens(config.data, config.model, text)
    return Question(Store(Path(config.store).expanduser()), key(config), windows)


def key(config: Config) -> Key:
    """The identity of a cell's calibration. Raises UsageError as `of` does."""
    text = replace(config.calibration, batch_size=1, folds=1, checkpoint=0, shards=1, shard=None)
    return Key(
        prefix=f"{config.model.name}-{config.data.name}-{config.calibration.samples}x{config.calibration.seqlen}",
        preimage={
            "schema": SCHEMA,
            "model": identity(config.model),
            "tokens": _fingerprint(config.data, config.model, text),
            "batch_size": config.calibration.batch_size,
            "folds": config.calibration.folds,
            "dtype": config.dtype,
            "backend": load.backend(config.device),
        },
    )


def stored(config: Config, key: Key) -> bool:
    """Whether the answer is there already."""
    return key in Store(Path(config.store).expanduser())


@cache
def identity(model: Model) -> str:
    return load.identity(model)


@lru_cache(maxsize=2)  # windows of a large data set are large; a grid asks for one set many times in a row
def _tokens(data: Data, model: Model, text: Calibration) -> Tokens:
    return tokens.load(data, load.encoder(model), text)


@cache
def _fingerprint(data: Data, model: Model, text: Calibration) -> str:
    return _tokens(data, model, text).sha256
