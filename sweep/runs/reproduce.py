"""`python -m sweep.reproduce RUN`: compute a finished cell again, from its run.json alone, and compare bit by bit.

Nothing is read from the store: the forward pass is repeated. Exit code 0 if every table is bit-identical, 1 if one
differs, 70 if the computation crashed.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.markup import escape
from rich.table import Table

from sweep.config.config import from_dict
from sweep.core import cli
from sweep.core.console import Console
from sweep.core.errors import UsageError
from sweep.core.signals import Interrupted
from sweep.runs import record as runs
from sweep.runs import until
from sweep.runs.results import Json

WORST = 5  # layers shown
PLACE = ("layer", "site", "ssd_group", "head_group", "dim_group", "channel", "fold", "folds")


@cli.command
def main(arguments: list[str] | None = None) -> int:
    parser = cli.parser("reproduce", __doc__)
    parser.add_argument("run", type=Path, help="directory of a finished cell")
    chosen = parser.parse_args(arguments)
    try:
        return reproduce(chosen.run, Console())
    except Interrupted as signal:  # which says that something is kept
        raise KeyboardInterrupt from signal.__cause__


def reproduce(directory: Path, console: Console) -> int:
    """Raises UsageError where there is no finished cell, or where it cannot be computed here."""
    import torch

    from sweep.models.kernels import malloc
    from sweep.runs import cell

    malloc.keep()

    record = runs.read(directory)
    if record is None:
        raise UsageError(f"{directory} holds no run.json; give the directory of a cell")
    if record.results is None:
        raise UsageError(f"{directory} is {record.status}, not finished: there is nothing to compare with")
    if record.results.device is None:
        raise UsageError(f"{directory} holds scales that were computed elsewhere: nothing here can be computed again")
    with tempfile.TemporaryDirectory(prefix="reproduce-") as scratch:
        torch.set_num_threads(record.results.device.threads)  # sums of floats depend on how they are split
        config = record.config
        if record.results.calibration.until:  # the samples that were reached, however many cells decided that
            fixed = {"samples": record.results.tokens.samples, "tolerance": None}
            config = config | {"calibration": config["calibration"] | fixed}
        asked = config | {"store": f"{scratch}/store", "wandb": {"mode": "disabled"}}
        if asked.get("recipe"):
            asked["recipe"] = str(directory / runs.RECIPE)
        again = cell.run(from_dict(asked), Path(scratch) / "run", "reproduce")
        by_table = {path.name: compare(path, Path(scratch) / "run" / path.name) for path in tables(directory)}
    changes = list(circumstances(record.to_dict(), again.record.to_dict()))
    same = not any(by_table.values())
    verdict = "[green]bit-identical[/green]" if same else "[red]different[/red]"
    console.print(f"{escape(record.name)}: {verdict} in {len(by_table)} tables", highlight=False)
    for name, differences in by_table.items():
        if differences:
            console.print(_shown(name, differences))
    if changes:
        console.print("what changed since:" if not same else "although these changed since:")
        for what, before, now in changes:
            console.print(f"  {what}: {before} → {now}", highlight=False, markup=False)
    elif not same:
        console.print(
            "nothing that is recorded changed: same versions, weights, tokens and device. Left are the device's "
            "own freedom (another CPU of the same name, non-deterministic kernels) and a changed program"
        )
    return cli.OK if same else cli.NO


def tables(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*.parquet") if path.name != until.FILE)


def compare(old: Path, new: Path) -> list[tuple[str, float, str]]:
    """Differences of two tables, the largest first: where, relative to the old value, and what. Empty if equal.

    Columns that the old one did not have yet are no difference."""
    if not new.exists():
        return [("everywhere", math.inf, "the table is no longer written")]
    a, b = pq.read_table(old), pq.read_table(new)
    if set(a.column_names) < set(b.column_names):
        b = b.select(a.column_names)
    if a.equals(b):
        return []
    if a.schema != b.schema or len(a) != len(b):
        return [("everywhere", math.inf, f"{len(a)} rows of {a.num_columns} columns, now {len(b)} of {b.num_columns}")]
    worst: dict[str, tuple[str, float, str]] = {}
    for x, y in zip(_rows(a), _rows(b), strict=True):
        where = " ".join(f"{p} {x[p]}" for p in PLACE if x.get(p) is not None)
        for column in x:
            if not _equal(x[column], y[column]):
                size = _relative(x[column], y[column])
                if size > worst.get(where, ("", -1.0, ""))[1]:
                    worst[where] = (where, size, f"{column} {_number(x[column])} → {_number(y[column])}")
    return sorted(worst.values(), key=lambda difference: -difference[1])


def circumstances(old: Json, new: Json) -> Iterator[tuple[str, Any, Any]]:
    """The circumstances that could explain a difference: key, then, now."""
    for section in ("calibration", "model", "tokens", "versions", "git", "device"):
        before, now = (r[section] or {} for r in (old, new))
        if section == "calibration":
            before, now = before["preimage"], now["preimage"]
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key) and not (section == "model" and key == "identity"):
                yield f"{section}.{key}", before.get(key), now.get(key)


def _rows(table: pa.Table) -> Iterable[dict[str, Any]]:
    return table.to_pylist()  # type: ignore[no-any-return]


def _equal(a: Any, b: Any) -> bool:
    return bool(a == b) or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


def _relative(a: Any, b: Any) -> float:
    if isinstance(a, float | int) and isinstance(b, float | int) and a:
        return abs(b - a) / abs(a)
    return math.inf


def _number(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)[:40]


def _shown(name: str, differences: list[tuple[str, float, str]]) -> Table:
    title = f"{name}: {len(differences)} places differ, the {min(WORST, len(differences))} worst"
    shown = Table("where", "relative", "what", title=title, title_justify="left")
    for where, size, what in differences[:WORST]:
        shown.add_row(escape(where), "–" if math.isinf(size) else f"{size:.1e}", escape(what))
    return shown
