"""run.json: what was asked of a cell, what became of it, and what its tables were computed from.

A JSON object, flat at the top. Files of earlier versions lack `recipe`, `loss`, `mendable`, `error_class` and sometimes
`sweep`;
`distinct` and `error_factor` of tokens; `grouped` and `rescaled` of calibrations. Keys not known here are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep import __version__
from sweep.core import provenance
from sweep.core.errors import UsageError
from sweep.core.files import write_json
from sweep.runs.results import Json, Results
from sweep.runs.status import Failure, RunStatus

if TYPE_CHECKING:
    from sweep.config.config import Config  # imports OmegaConf, which readers of ten thousand files do without

SCHEMA = 1
FILE = "run.json"
RECIPE = "recipe.yaml"  # a copy of the one that a cell follows, in its directory


class RecordError(ValueError):
    """A run.json that is no record of a run; the message says what is wrong with it."""


@contextmanager
def complete() -> Iterator[None]:
    """Inside, what is looked up in a record has to be there, else a RecordError names it."""
    try:
        yield
    except KeyError as error:
        raise RecordError(f"{FILE} lacks {error}") from error
    except (TypeError, AttributeError) as error:
        raise RecordError(f"{FILE} is no record of a run: {error}") from error


@dataclass(frozen=True)
class RunRecord:
    """One cell. sweep: the group it belongs to, "" where an old file does not say. config: as `Config.to_dict` gave it.
    started, finished: ISO 8601. failure: of a failed run only. results: of a finished run, and of that alone.
    recipe: where the one that the cell follows comes from, and its predicted cost; the choices are in RECIPE."""

    name: str
    sweep: str
    config: Json
    started: str
    status: RunStatus = RunStatus.RUNNING
    failure: Failure | None = None
    finished: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    git: Json | None = None
    recipe: Json | None = None
    results: Results | None = None
    schema: int = SCHEMA

    @classmethod
    def from_dict(cls, raw: Any) -> RunRecord:
        """Raises RecordError where a key is missing or of another kind, or the file is of a later schema."""
        with complete():
            status, schema = raw["status"], raw.get("schema", 0)
            if schema > SCHEMA:
                raise RecordError(f"{FILE} is of schema {schema}; this version reads up to {SCHEMA}, update it")
            if status not in _STATUSES:
                raise RecordError(f"status {status!r} is unknown")
            return cls(
                raw.get("name", "a cell"),
                raw.get("sweep") or "",
                raw["config"],
                raw["started"],
                _STATUSES[status],
                Failure.from_dict(raw) if status == RunStatus.FAILED else None,
                raw.get("finished"),
                raw.get("versions") or {},
                raw.get("git"),
                raw.get("recipe"),
                Results.from_dict({k: raw[k] for k in raw if k not in _OWN}) if status == RunStatus.FINISHED else None,
                schema,
            )

    def to_dict(self) -> Json:
        return {
            "schema": self.schema,
            "status": str(self.status),
            **(self.failure.to_dict() if self.failure else {"error": None}),
            "started": self.started,
            "finished": self.finished,
            "name": self.name,
            "sweep": self.sweep,
            "config": self.config,
            "recipe": self.recipe,
            "versions": self.versions,
            "git": self.git,
            **(self.results.to_dict() if self.results else {"loss": None, "evaluation": None, "wandb": None}),
        }


_STATUSES = {str(status): status for status in RunStatus}
_OWN = frozenset({f.name for f in fields(RunRecord)} | {"error", "mendable", "error_class"})


def describe(config: Config, group: str) -> RunRecord:
    """The record of a run before it starts."""
    return replace(under_way(config.label, group, config.to_dict()), recipe=_recipe(config))


def under_way(name: str, sweep: str, config: Json) -> RunRecord:
    """The record of a run that starts now, by this version of the program."""
    return RunRecord(name, sweep, config, now(), versions=provenance.versions(), git=provenance.git())


def _recipe(config: Config) -> Json | None:
    if (recipe := config.chosen) is None:
        return None
    said = {key: value for key, value in recipe.written.items() if key != "layers"}
    return {"file": str(recipe.path), "digest": recipe.digest, **said}


def start(directory: Path, record: RunRecord) -> RunRecord:
    """Create the directory, with the record of a run under way. Raises UsageError if it cannot be written to."""
    started = replace(record, started=now())
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / FILE, started.to_dict())
    except OSError as error:
        raise UsageError(f"run directory {directory} cannot be written: {error.strerror}") from error
    return started


def finish(directory: Path, record: RunRecord, results: Results) -> RunRecord:
    """Replace run.json by the complete record."""
    return _end(directory, replace(record, status=RunStatus.FINISHED, failure=None, results=results))


def fail(directory: Path, record: RunRecord, failure: Failure) -> RunRecord:
    """Replace run.json by one that says why there are no results."""
    return _end(directory, replace(record, status=RunStatus.FAILED, failure=failure, results=None))


def _end(directory: Path, record: RunRecord) -> RunRecord:
    ended = replace(record, finished=now())
    write_json(directory / FILE, ended.to_dict())
    return ended


def content(directory: Path) -> Json:
    """All that run.json says, whatever it is. Raises FileNotFoundError, OSError, or RecordError where it is torn."""
    try:
        with open(f"{directory}/{FILE}", "rb") as file:  # Path.open takes thrice as long, of ten thousand files
            raw = json.load(file)
    except ValueError as error:
        raise RecordError(f"{FILE} cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise RecordError(f"{FILE} is no record of a run: a {type(raw).__name__}")
    return raw


def load(directory: Path) -> RunRecord:
    """The record of a run. Raises FileNotFoundError, OSError, or RecordError where it is damaged."""
    return RunRecord.from_dict(content(directory))


def read(directory: Path) -> RunRecord | None:
    """A run's record; None where there is none, or no whole one."""
    try:
        return load(directory)
    except (OSError, RecordError):
        return None


def finished(directory: Path, config: Config, key: str) -> bool:
    """True if a directory holds the result of this very cell: configuration, calibration key and version."""
    record = read(directory)
    if not record or not record.results or record.versions.get("sweep") != __version__:
        return False
    return record.results.calibration.question == key and _is_of(record, config)


def repeated(directory: Path, config: Config) -> bool:
    """True if the finished run in a directory has this configuration, even if model or text held something else then:
    the same command, given again, may write its result anew."""
    record = read(directory)
    return record is not None and record.status is RunStatus.FINISHED and _is_of(record, config)


def _is_of(record: RunRecord, config: Config) -> bool:
    from sweep.config.config import from_dict

    try:
        return from_dict(record.config).identity == config.identity
    except UsageError:
        return False  # a configuration of another version


def now() -> str:
    """Coordinated universal time, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
