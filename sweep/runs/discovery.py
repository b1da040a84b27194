"""Cells on disk: find their directories, read what run.json says, name what cannot be used."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sweep.core.cli import spelled
from sweep.core.errors import UsageError

RUNS = Path("runs")
SKIPPED = {".hydra", "wandb", "calibrations", ".shards", ".submitit", "__pycache__"}


@dataclass(frozen=True)
class Problem:
    """A directory that looks like a cell and cannot be compared. kind: `unfinished` or `damaged`."""

    path: Path
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}, {self.reason}"


@dataclass(frozen=True)
class Cell:
    """One finished cell. `alpha` is null where the method ignores it; `asked_alpha` is what was asked for.

    tokens, identity, dtype and sizes say what the calibration observed: cells that agree in all of them are
    comparable. `key` names the calibration itself: cells that share it share its folds.
    """

    path: Path
    name: str
    sweep: str
    model: str
    method: str
    alpha: float | None
    asked_alpha: float | None
    format: str
    granularity: str
    data: str
    key: str
    tokens: str
    identity: str
    weights: str
    dtype: str
    sizes: str
    folds: int
    finished: str
    distinct: int | None = None  # samples that are no copies of others; null where that is not known
    evaluation: dict[str, Any] | None = field(default=None, hash=False)
    geometry: dict[str, Any] = field(default_factory=dict, hash=False)
    loss: dict[str, Any] | None = field(default=None, hash=False)  # predicted, nats per token, and its sums

    @property
    def repeats(self) -> bool:
        """Whether some of its samples are copies of others; `sizes` says how many there are in all."""
        return self.distinct is not None and self.distinct < int(self.sizes.split(" ")[0])

    @cached_property
    def calibration(self) -> tuple[str, ...]:
        """What has to agree before two cells may be compared."""
        return (self.identity, self.tokens, self.dtype, self.sizes)

    @property
    def rank(self) -> tuple[bool, bool, str]:
        """Of runs of one cell the highest counts: one whose cost is known, then the latest."""
        return (self.evaluation is not None, self.loss is not None, self.finished)

    @cached_property
    def setting(self) -> str:
        """How the clip is chosen: `percentile 0.9995`, `minmax`."""
        return self.method if self.alpha is None else f"{self.method} {self.alpha:.10g}"


def find(patterns: Sequence[str]) -> list[Path]:
    """Directories of cells under directories or globs, in order; under the latest of runs/ if none is given.

    A cell's directory holds run.json, scales.parquet, or at least Hydra's .hydra/.
    Raises UsageError for a pattern that matches nothing, and where nothing is a cell.
    """
    roots = [Path(p) for p in patterns] or [_latest()]
    found: dict[str, None] = {}
    for root in roots:
        matches = [root] if root.is_dir() else [Path(m) for m in sorted(glob.glob(str(root), recursive=True))]
        if not matches:
            raise UsageError(f"{root}: no such directory, and as a pattern it matches nothing")
        for match in matches:
            if match.is_dir():
                found.update(dict.fromkeys(_cells(str(match))))
            elif match.name in ("run.json", "scales.parquet"):  # a pattern may name the files themselves
                found[str(match.parent)] = None
    if not found:
        raise UsageError(f"{' '.join(map(str, roots))}: no cells here; a cell is a directory with a run.json")
    return [Path(path) for path in found]


def _latest() -> Path:
    sweeps = [p for p in RUNS.iterdir() if p.is_dir() and p.name not in SKIPPED] if RUNS.is_dir() else []
    for path in sorted(sweeps, key=lambda p: p.stat().st_mtime, reverse=True):
        if next(_cells(str(path)), None):
            return path
    raise UsageError(f"{RUNS}/ holds no cells yet: run `{spelled('run')}`, or name a directory")


def _cells(root: str) -> Iterator[str]:
    # most directories of a huge sweep are cells, and asking for one file is quicker than listing them all
    if os.path.exists(f"{root}/run.json") or os.path.exists(f"{root}/scales.parquet"):
        yield root
        return
    with os.scandir(root) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir())
    below = [name for name in folders if name not in SKIPPED]
    if "shards" in below and os.path.exists(f"{root}/plan.json"):
        below.remove("shards")  # as sweeps of earlier versions kept what is no cell
    if not below and ".hydra" in folders:
        yield root  # it died before it could write run.json
    for name in below:
        yield from _cells(f"{root}/{name}")


def read(paths: Iterable[Path]) -> tuple[list[Cell], list[Problem]]:
    """The finished cells, and the rest with the reason why they are not among them."""
    cells: list[Cell] = []
    problems: list[Problem] = []
    for path in paths:
        found = _read(path)
        if isinstance(found, Cell):
            cells.append(found)
        else:
            problems.append(found)
    return cells, problems


def _read(path: Path) -> Cell | Problem:
    try:
        with open(f"{path}/run.json", "rb") as file:
            run = json.load(file)
        status = run["status"]
        if status != "finished":
            reason = f"failed: {run.get('error')}" if status == "failed" else f"{status} since {run['started']}"
            return Problem(path, "unfinished", reason)
        cell = _cell(path, run)
    except FileNotFoundError:
        kind = "damaged" if (path / "scales.parquet").exists() else "unfinished"
        return Problem(path, kind, "run.json is missing")
    except (OSError, ValueError) as error:
        return Problem(path, "damaged", f"run.json cannot be read: {error}")
    except (KeyError, TypeError, AttributeError) as error:
        return Problem(path, "damaged", f"run.json lacks {error}")
    if not os.path.exists(f"{path}/scales.parquet"):
        return Problem(path, "damaged", "scales.parquet is missing")
    return cell


def _cell(path: Path, run: dict[str, Any]) -> Cell:
    config, model, tokens, calibration = run["config"], run["model"], run["tokens"], run["config"]["calibration"]
    method, asked = config["method"], config["alpha"]
    return Cell(
        path=path,
        name=run["name"],
        sweep=run.get("sweep") or path.parent.name,
        model=model["name"],
        method=method,
        alpha=asked if method.startswith("percentile") else None,
        asked_alpha=asked,
        format=config["format"],
        granularity=config["granularity"],
        data=tokens["data"],
        key=run["calibration"]["key"],
        tokens=tokens["sha256"],
        identity=model["identity"],
        weights=model["weights"],
        dtype=config["dtype"],
        sizes=f"{tokens['samples']} x {tokens['seqlen']}",
        folds=calibration["folds"],
        finished=run["finished"],
        distinct=tokens.get("distinct"),
        evaluation=run.get("evaluation"),
        geometry={k: v for k, v in model.items() if k not in ("name", "identity", "weights")},
        loss=run.get("loss"),
    )
