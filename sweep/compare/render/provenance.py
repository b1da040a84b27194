"""The request behind the cells of a report and the command that repeats it, from the runs' records."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

import sweep
from sweep.calibration.until import Decision
from sweep.compare.facts import Answer
from sweep.core.cli import spelled

FEW = 4  # values of a fact that are named


def asked(a: Answer) -> list[tuple[str, str]]:
    """(term, text): models, data, size, precision, device, versions, dates, calibrations."""
    cells = a.runs.listed
    records = [_record(cells[n].path) for n in _one_per_sweep_and_key(a)]
    days = sorted({c.finished[:16].replace("T", " ") for c in cells})
    devices = (_words(r.get("device") or {}, ("type", "name")) for r in records)
    keys = ("sweep", "torch", "transformers", "python")
    versions = (_words(r.get("versions") or {}, keys, named=True) for r in records)
    facts = [
        ("models", _some(f"{c.model} ({c.weights} weights)" if c.weights != "trained" else c.model for c in cells)),
        ("text", _some(c.data for c in cells)),
        ("samples × tokens", _some(c.sizes.replace(" x ", " × ") for c in cells)),
        ("until", _some(_until(r) for r in records)),
        ("dtype", _some(c.dtype for c in cells)),
        ("device", _some(devices)),
        ("versions", _some(versions)),
        ("date", f"{days[0]} UTC" if len(days) == 1 else f"{days[0]} to {days[-1]} UTC"),
        ("calibration", _some(c.key[:16] for c in cells)),
    ]
    return [(term, text) for term, text in facts if text]


def commands(a: Answer) -> list[str]:
    """The command lines that gave the cells, one per sweep; if it recorded none, one that recomputes a cell."""
    lines: dict[str, None] = {}
    for cell in a.runs.listed:
        if line := _of_sweep(cell.path.parent / "multirun.yaml") or _of_job(cell.path / ".hydra" / "overrides.yaml"):
            lines[line] = None
        elif len(lines) < FEW and not any("reproduce" in line for line in lines):
            lines[f"{spelled('reproduce')} {quote(str(cell.path))}"] = None
        if len(lines) == FEW:
            break
    return list(lines)


def bibtex() -> str:
    """How to cite the program, in the version that wrote the report."""
    return (
        "@software{mamba_scale_sweep,\n"
        "  title   = {mamba-scale-sweep: activation scales of quantized Mamba models},\n"
        "  author  = {{The mamba-scale-sweep authors}},\n"
        f"  version = {{{sweep.__version__}}},\n"
        "  license = {Apache-2.0}\n}"
    )


def _one_per_sweep_and_key(a: Answer) -> list[int]:
    first: dict[tuple[str, str], int] = {}
    for n, cell in enumerate(a.runs.listed):
        first.setdefault((cell.sweep, cell.key), n)
    return list(first.values())[: 4 * FEW]


def _record(cell: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((cell / "run.json").read_text(encoding="utf-8"))
    return record


def _until(record: dict[str, Any]) -> str:
    """What a calibration has reached that stopped by itself, and what not."""
    decided = (record.get("calibration") or {}).get("until")
    return str(Decision.from_dict(decided)) if decided else ""


def _words(values: dict[str, Any], keys: Iterable[str], named: bool = False) -> str:
    return ", ".join(f"{key} {values[key]}" if named else str(values[key]) for key in keys if values.get(key))


def _some(values: Iterable[str]) -> str:
    different = list(dict.fromkeys(v for v in values if v))
    more = f" and {len(different) - FEW} more" if len(different) > FEW else ""
    return "; ".join(different[:FEW]) + more


def _of_sweep(file: Path) -> str | None:
    hydra = _yaml(file).get("hydra") or {}
    words = (hydra.get("overrides") or {}).get("task") if isinstance(hydra, dict) else None
    return f"python -m sweep -m {' '.join(quote(str(word)) for word in words)}" if words else None


def _of_job(file: Path) -> str | None:
    words = _yaml(file).get("list")
    return None if words is None else " ".join(["python -m sweep", *(quote(str(word)) for word in words)])


def _yaml(file: Path) -> dict[str, Any]:
    """The mapping that a file of Hydra's holds, a list as {"list": …}; empty where there is none that can be read."""
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {"list": value} if isinstance(value, list) else {}
