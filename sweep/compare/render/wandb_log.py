"""A comparison as one W&B run of its sweep's group: tables, answers, pictures. wandb is imported here alone."""

from __future__ import annotations

import hashlib
import io
import logging
import math
from collections import Counter
from pathlib import Path
from shlex import quote
from typing import Any

from sweep.compare.answer import Answer, headlines
from sweep.compare.render import sentences
from sweep.compare.render.pictures import pngs
from sweep.compare.tables.catalogue import tables
from sweep.compare.tables.table import Table, Value
from sweep.config.knobs import Wandb
from sweep.core.errors import UsageError
from sweep.runs.record import load
from sweep.runs.tracking import wandb_connection
from sweep.runs.tracking.wandb_connection import Identity, Unreachable

Rows = tuple[tuple[Value, ...], ...]

log_ = logging.getLogger(__name__)


def log(a: Answer, directory: Path, mode: str = "auto") -> str:
    """Log it below `directory`/wandb: online where a key is configured, else offline. Returns how it is seen.

    Raises UsageError where W&B takes it neither way. The same cells give the same run, which is logged anew."""
    import wandb

    first = a.runs.listed[0]
    wanted = load(first.path).config.get("wandb") or {}
    settings = Wandb(project=wanted.get("project") or "mamba-scales", entity=wanted.get("entity"))
    group = wanted.get("group") or first.sweep
    paths = "\n".join(str(c.path.resolve()) for c in a.runs.listed)
    name = hashlib.sha256(paths.encode()).hexdigest()[:12]
    identity = Identity(f"compare-{name}", f"comparison of {first.sweep}", group, "comparison")
    config = {"cells": [str(c.path) for c in a.runs.listed], "labels": a.runs.labels}
    try:
        run = _open(wandb_connection.mode(mode), settings, directory, identity, config)
        with wandb_connection.inside(directory):
            run.notes = text(a)
            shown, summary = {**_tables(a), **_pictures(a)}, _summary(a)
            for key in set(run.summary.keys()) - shown.keys() - summary.keys():  # what an earlier logging said
                if not key.startswith("_"):
                    del run.summary[key]
            run.log(shown)
            run.summary.update(summary)
            seen = f"wandb sync {quote(run.settings.sync_dir)}" if run.offline else str(run.url)
            run.finish()
        wandb.teardown()
    except Exception as error:  # wandb raises a dozen unrelated types
        raise UsageError(f"W&B: {wandb_connection.first_line(error)}; the comparison is not logged") from error
    return seen


def _open(mode: str, settings: Wandb, directory: Path, identity: Identity, config: dict[str, Any]) -> Any:
    if mode == "disabled":
        raise UsageError("W&B is disabled (WANDB_MODE)")
    if mode != "offline":
        try:
            if server := wandb_connection.server(mode, directory):
                return wandb_connection.online(server, settings, directory, identity, config)
        except Unreachable as error:
            log_.warning("W&B: %s; logging offline", error)
    return wandb_connection.offline(settings, directory, identity, config)


def text(a: Answer) -> str:
    """The answer in words: warnings, headlines, verdicts, the seed's questions."""
    lines = [f"Warning: {w}" for w in a.runs.warnings] + [f"- {h}" for h in headlines(a)]
    lines += [f"- {v.contrast.knob} ({v.contrast.context}): {v.verdict}. {sentences.verdict(v)}" for v in a.verdicts]
    lines += [f"{n}. {r.question} {r.verdict}. {r.text}" for n, r in enumerate(a.seed, 1)]
    return "\n".join(lines)


def _tables(a: Answer) -> dict[str, Any]:
    import wandb

    questions: Rows = tuple((r.question, r.said, r.verdict, r.text) for r in a.seed)
    verdicts: Rows = tuple((v.contrast.knob, v.contrast.context, v.verdict, sentences.verdict(v)) for v in a.verdicts)
    found: dict[str, tuple[list[str], Rows]] = {
        "answer/questions": (["question", "the study said", "verdict", "answer"], questions),
        "answer/verdicts": (["knob", "context", "verdict", "sentence"], verdicts),
    }
    seen: Counter[str] = Counter()
    for table in tables(a):
        seen[table.name] += 1
        number = seen[table.name]
        found[f"tables/{table.name}{'' if number == 1 else f'-{number}'}"] = (_heads(table), _rows(table))
    return {
        key: wandb.Table(columns=heads, data=[list(row) for row in rows], allow_mixed_types=True)
        for key, (heads, rows) in found.items()
        if rows
    }


def _heads(table: Table) -> list[str]:
    """Names of columns, each once."""
    seen: Counter[str] = Counter()
    heads = []
    for column in table.columns:
        seen[column.name] += 1
        heads.append(column.name if seen[column.name] == 1 else f"{column.name} ({seen[column.name]})")
    return heads


def _rows(table: Table) -> Rows:
    """W&B knows neither NaN nor infinity."""
    return tuple(tuple(None if isinstance(v, float) and not math.isfinite(v) else v for v in row) for row in table.rows)


def _pictures(a: Answer) -> dict[str, Any]:
    import wandb
    from PIL import Image

    return {f"charts/{name}": wandb.Image(Image.open(io.BytesIO(content))) for name, content in sorted(pngs(a).items())}


def _summary(a: Answer) -> dict[str, str | float | int]:
    kinds = Counter(v.verdict for v in a.verdicts)
    found: dict[str, str | float | int] = {f"verdicts/{kind}": n for kind, n in kinds.items()}
    for one in a.advice:
        found[f"advice/{one.context}"] = one.best.setting
    return {"cells": len(a.runs.listed), **found}
