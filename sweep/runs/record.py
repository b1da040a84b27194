"""A cell's files: the local truth that tables, reports and W&B are made of."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sweep import __version__
from sweep.config.config import Config, from_dict
from sweep.core import provenance
from sweep.core.errors import UsageError
from sweep.core.files import draft

SCHEMA = 1
RECIPE = "recipe.yaml"  # a copy of the one that a cell follows, in its directory


def describe(config: Config, group: str) -> dict[str, Any]:
    """What is known of a run before it starts."""
    return {
        "name": config.label,
        "sweep": group,
        "config": config.to_dict(),
        "recipe": _recipe(config),
        "versions": provenance.versions(),
        "git": provenance.git(),
        "loss": None,
        "evaluation": None,
        "wandb": None,
    }


def _recipe(config: Config) -> dict[str, Any] | None:
    """Where the cell's recipe comes from, and what it was predicted to cost; the choices are in its file."""
    if (recipe := config.chosen) is None:
        return None
    said = {key: value for key, value in recipe.written.items() if key != "layers"}
    return {"file": str(recipe.path), "digest": recipe.digest, **said}


def start(directory: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Create the directory with a run.json of status `running`; returns that record.

    Raises UsageError if it cannot be written to."""
    started = {
        "schema": SCHEMA,
        "status": "running",
        "error": None,
        "started": now(),
        "finished": None,
        **record,
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / "run.json", started)
    except OSError as error:
        raise UsageError(f"run directory {directory} cannot be written: {error.strerror}") from error
    return started


def finish(directory: Path, record: dict[str, Any], error: str | None = None) -> dict[str, Any]:
    """Replace run.json by the complete record, status `finished`, or `failed` with the error."""
    status = "failed" if error else "finished"
    done = {**record, "status": status, "error": error, "finished": now()}
    write_json(directory / "run.json", done)
    return done


def read(directory: Path) -> dict[str, Any] | None:
    """A run's record; None where there is none, or no whole one."""
    try:
        record = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def finished(directory: Path, config: Config, key: str) -> bool:
    """Whether a directory holds the result of this very cell: configuration, calibration key and version."""
    record = read(directory)
    if not record or record["status"] != "finished" or record["versions"]["sweep"] != __version__:
        return False
    return record["calibration"]["key"] == key and _is_of(record, config)


def repeated(directory: Path, config: Config) -> bool:
    """Whether the finished run in a directory is of this configuration, whatever its model and text held then: the
    same command, given again, may write its result anew."""
    record = read(directory)
    return record is not None and record["status"] == "finished" and _is_of(record, config)


def _is_of(record: dict[str, Any], config: Config) -> bool:
    try:
        return from_dict(record["config"]).identity == config.identity
    except UsageError:
        return False  # a configuration of another version


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Atomically: a reader sees the old file or the new one, never half of one."""
    with draft(path) as file:
        file.write_text(json.dumps(value, indent=2, sort_keys=False, allow_nan=False) + "\n")


def write_table(path: Path, table: pa.Table) -> None:
    """One Parquet file, zstd, atomically."""
    # measured numbers hardly repeat: a dictionary of them makes the file a quarter larger and slower to read
    words = [field.name for field in table.schema if not pa.types.is_floating(field.type)]
    with draft(path) as file:
        pq.write_table(table, file, compression="zstd", use_dictionary=words)


def now() -> str:
    """Coordinated universal time, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
