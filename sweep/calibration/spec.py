"""The calibration that a cell needs, as a question: tokens, model and computation. Equal questions, one answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from sweep.calibration import boundaries, collect, gradients, growth, tokens
from sweep.calibration.cache import CalibrationStore
from sweep.calibration.collect import Collect
from sweep.calibration.tokens import Outline, Tokens
from sweep.config.config import Config
from sweep.config.knobs import Calibration, Data, Model
from sweep.core.errors import UsageError
from sweep.core.store_key import Key
from sweep.models import load, source
from sweep.quantization.statistics_io import SCHEMA


@dataclass(frozen=True, eq=False)
class Question:
    """store and key: where the answer lies, or will. tokens: what is to be read. wanted: what is to be collected.
    origin: where the weights come from (repository and commit, or path)."""

    store: CalibrationStore
    key: Key
    tokens: Tokens
    wanted: Collect
    origin: dict[str, str | None]


def of(config: Config, wanted: Collect | None = None) -> Question:
    """The question of a cell; wanted: what is to be collected, if it is not what the cell asks first.

    Weights and text are read once per process, unless they change.
    Raises UsageError where the model or the data set cannot be had."""
    wanted = wanted or collect.of(config)
    return Question(_store(config), key(config, wanted), _tokens(_text(config)), wanted, source.origin(config.model))


def key(config: Config, wanted: Collect | None = None) -> Key:
    """The identity of a cell's calibration. Raises UsageError as `of` does."""
    return Key(
        prefix=re.sub(
            r"[^\w.-]+",  # a model of the Hub has a slash in its name
            "_",
            f"{config.model.name}-{config.data.name}-{config.calibration.samples}x{config.calibration.seqlen}",
            flags=re.ASCII,  # a directory's name, also where the locale knows no other letters
        ),
        preimage={
            "schema": SCHEMA,
            "model": source.identity(config.model),
            "tokens": _outline(_text(config)).fingerprints[-1],
            "batch_size": config.calibration.batch_size,
            "folds": config.calibration.folds,
            "dtype": config.dtype,
            "backend": load.backend(config.model, config.device),
            **(wanted or collect.of(config)).preimage,
            **gradients.preimage(config.calibration),
            **_tolerated(config.calibration),
        },
    )


def _tolerated(calibration: Calibration) -> dict[str, float]:
    """The tolerance as part of the identity. With it the number of samples is open: the key names a question, and each
    calibration that answers it has a key of its own."""
    if calibration.tolerance is None:
        return {}
    return {"tolerance": calibration.tolerance, "tolerance_share": calibration.tolerance_share}


def counts(config: Config) -> list[int]:
    """After how many samples a calibration is looked at that stops by calibration.tolerance."""
    return boundaries.counts(_outline(_text(config)), key(config).preimage)


def keys() -> Callable[[Config], Key]:
    """`key` for the moment that a plan takes: models and texts are looked at once, not once a cell."""
    known: dict[str, Key] = {}

    def look_up(config: Config) -> Key:
        parts = (config.model, config.data, config.calibration, config.device, config.dtype, collect.of(config))
        if (asked := repr(parts)) not in known:
            known[asked] = key(config)
        return known[asked]

    return look_up


def stored(config: Config, key: Key) -> bool:
    """True if the answer is in the store already."""
    return key in _store(config)


def continued(asked: Iterable[tuple[Config, Key]]) -> dict[str, growth.Step]:
    """By its hash, what each calibration that has to be computed can go on from: one in its store, or another asked
    for, whichever holds most of its samples. Else one that holds more, and why it is computed anew all the same."""
    calibrations = list(asked)
    stored = {store: store.keys() for store in {_store(config) for config, _ in calibrations}}
    known = {}
    for config, key in calibrations:
        others = [*stored[_store(config)], *(k for other, k in calibrations if other.store == config.store)]
        steps = growth.steps(key, _outline(_text(config)), others)
        usable = next((step for step in steps if not step.why_not), None)
        if step := usable or growth.larger(key, stored[_store(config)], partial(_outline_of, config)):
            known[key.hash] = step
    return known


def _outline_of(config: Config, samples: int) -> Outline | None:
    """The outline of the first `samples` samples of a cell's text; None where the text has fewer."""
    text = _text(config)
    try:
        return _outline(replace(text, calibration=replace(text.calibration, samples=samples)))
    except UsageError:
        return None


def _store(config: Config) -> CalibrationStore:
    return CalibrationStore(Path(config.store).expanduser())


@dataclass(frozen=True)
class _Text:
    """All that the tokens depend on. files: names, sizes and times of local ones, so that a change is seen."""

    data: Data
    model: Model
    calibration: Calibration
    files: tuple[tuple[str, int, int], ...]

    def __hash__(self) -> int:
        return hash(repr(self))


def _text(config: Config) -> _Text:
    plain = Calibration(config.calibration.samples, config.calibration.seqlen, 1, 1, config.calibration.seed)
    path = Path(config.data.path).expanduser() if config.data.path else None
    files = sorted(path.rglob("*")) if path and path.is_dir() else [path] if path and path.exists() else []
    stamps = tuple((str(p), (s := p.stat()).st_size, s.st_mtime_ns) for p in files if p.is_file())
    return _Text(config.data, config.model, plain, stamps)


def _tokens(text: _Text) -> Tokens:
    """The first samples of a seed are the same for every number of them: the largest that was asked for is kept."""
    samples = text.calibration.samples
    of_any = replace(text, calibration=replace(text.calibration, samples=1))
    if of_any not in _longest or len(_longest[of_any].windows) < samples:
        kept = _longest.pop(of_any, None)
        if kept is None and len(_longest) == KEPT:
            _longest.pop(next(iter(_longest)))
        _longest[of_any] = tokens.load(text.data, load.encoder(text.model), text.calibration)
    return _longest[of_any].first(samples)


KEPT = 2  # windows of a large data set are large; a grid asks for one set many times in a row
_longest: dict[_Text, Tokens] = {}


@cache
def _outline(text: _Text) -> Outline:
    return _tokens(text).outline
