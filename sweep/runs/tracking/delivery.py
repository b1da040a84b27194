"""Notes on a cell's W&B runs, kept in the folder `wandb` of its directory: the id of an attempt that has not ended, so
that a cell started again goes on with its run, and where complete copies have gone, so that a replay sends nothing
twice."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from sweep.core.files import write_json
from sweep.runs.results import Json

OFFLINE = ""  # in place of a server


@dataclass(frozen=True)
class Destination:
    """server: its address, or OFFLINE. entity: as asked for; None is the account's default."""

    server: str
    entity: str | None
    project: str
    group: str
    id: str


def attempt(directory: Path, config: Json) -> str:
    """The id for a cell: a new one, or that of the attempt at the same configuration that has not ended."""
    path = directory / "wandb" / "attempt.json"
    last = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if last.get("config") != config:
        last = {"id": secrets.token_hex(6), "config": config}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, last)
    return str(last["id"])


def identify(record: Json) -> str:
    """The id of a finished cell: that of its run, or one made of all that its run.json says, wherever it lies."""
    if record.get("wandb"):
        return str(record["wandb"]["id"])
    content = json.dumps({key: value for key, value in record.items() if key != "wandb"}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def deliver(directory: Path, destination: Destination, seen: str) -> None:
    """Note that all of the cell has gone there, and how it is seen; the attempt has ended."""
    with (directory / "wandb" / "delivered.jsonl").open("a") as file:
        file.write(json.dumps({**asdict(destination), "seen": seen}) + "\n")
    (directory / "wandb" / "attempt.json").unlink(missing_ok=True)


def delivered(directory: Path, destination: Destination) -> str | None:
    """The hint for viewing the complete copy at that destination; None if there is no copy."""
    path = directory / "wandb" / "delivered.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        entry = json.loads(line)
        seen = str(entry.pop("seen"))
        if entry == asdict(destination):
            return seen
    return None
