"""What a cell asks of the activations: which tokens of which model, computed how. Equal questions, one answer."""

from __future__ import annotations

from dataclasses import dataclass
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
    """The question of a cell. Weights and text are read once per process, unless they change.

    Raises UsageError where the model or the data set cannot be had."""
    return Question(_store(config), key(config), _tokens(*_text(config)))


def key(config: Config) -> Key:
    """The identity of a cell's calibration. Raises UsageError as `of` does."""
    return Key(
        prefix=f"{config.model.name}-{config.data.name}-{config.calibration.samples}x{config.calibration.seqlen}",
        preimage={
            "schema": SCHEMA,
            "model": _identity(config.model, _stamp(load.directory(config.model))),
            "tokens": _fingerprint(*_text(config)),
            "batch_size": config.calibration.batch_size,
            "folds": config.calibration.folds,
            "dtype": config.dtype,
            "backend": load.backend(config.device),
        },
    )


def stored(config: Config, key: Key) -> bool:
    """Whether the answer is there already."""
    return key in _store(config)


def _store(config: Config) -> Store:
    return Store(Path(config.store).expanduser())


Stamp = tuple[tuple[str, int, int], ...]
Text = tuple[Data, Model, Calibration, Stamp]


def _stamp(path: Path) -> Stamp:
    """Names, sizes and times of the files at or below a path: cheap, and different when a file was changed."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] if path.is_file() else []
    return tuple((str(p), (s := p.stat()).st_size, s.st_mtime_ns) for p in files)


def _text(config: Config) -> Text:
    """What the tokens depend on."""
    plain = Calibration(config.calibration.samples, config.calibration.seqlen, 1, 1, config.calibration.seed)
    data = _stamp(Path(config.data.path).expanduser()) if config.data.path else ()
    return config.data, config.model, plain, data


@cache
def _identity(model: Model, stamp: Stamp) -> str:
    return load.identity(model)


@lru_cache(maxsize=2)  # windows of a large data set are large; a grid asks for one set many times in a row
def _tokens(data: Data, model: Model, plain: Calibration, stamp: Stamp) -> Tokens:
    return tokens.load(data, load.encoder(model), plain)


@cache
def _fingerprint(data: Data, model: Model, plain: Calibration, stamp: Stamp) -> str:
    return _tokens(data, model, plain, stamp).sha256
