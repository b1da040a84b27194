"""`python -m sweep.runs [DIR …]`: which sweeps there are, what became of their cells, how old and how large."""

from __future__ import annotations

import time
from pathlib import Path

from sweep.core import cli
from sweep.runs.listing import STATES, Sweep, sweeps


def table(listed: list[Sweep], now: float) -> str:
    """Aligned columns, and a line for every damaged cell."""
    rows = [("sweep", "model", "cells", "age", "size")]
    for s in listed:
        cells = ", ".join(f"{s.cells[state]} {state}" for state in STATES if s.cells[state])
        rows.append((str(s.path), ", ".join(s.models) or "–", cells or "none", _age(now - s.latest), _bytes(s.size)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    right = (False, False, False, True, True)
    lines = [
        "  ".join(v.rjust(w) if r else v.ljust(w) for v, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in rows
    ]
    lines += [f"damaged: {path}: {why}" for s in listed for path, why in s.damaged.items()]
    return "\n".join(lines)


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


@cli.command
def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0, or 2 for bad input."""
    parser = cli.parser("runs", __doc__)
    parser.add_argument("directories", nargs="*", type=Path, metavar="DIR", help="default: runs")
    listed = sweeps(parser.parse_args(arguments).directories or [Path("runs")])
    print(table(listed, time.time()) if listed else f"no runs yet: {cli.spelled('run')}")
    return cli.OK


if __name__ == "__main__":
    cli.run(main)
