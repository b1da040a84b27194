"""The request behind the cells of a report and the command that repeats it, from the runs' records."""

from __future__ import annotations

from collections.abc import Iterable
from shlex import quote

import sweep
from sweep.compare.facts import Answer
from sweep.core.cli import spelled
from sweep.runs import hydra_files
from sweep.runs.record import load

FEW = 4  # values of a fact that are named


def asked(a: Answer) -> list[tuple[str, str]]:
    """(term, text): models, data, size, precision, device, versions, dates, calibrations."""
    cells = a.runs.listed
    records = [load(cells[n].path) for n in _one_per_sweep_and_key(a)]
    days = sorted({c.finished[:16].replace("T", " ") for c in cells})
    devices = (f"{d.type}, {d.name}" for r in records if r.results and (d := r.results.device))
    keys = ("sweep", "torch", "transformers", "python")
    versions = (", ".join(f"{key} {r.versions[key]}" for key in keys if r.versions.get(key)) for r in records)
    until = (str(u) for r in records if r.results and (u := r.results.calibration.until))
    facts = [
        ("models", _some(f"{c.model} ({c.weights} weights)" if c.weights != "trained" else c.model for c in cells)),
        ("text", _some(c.data for c in cells)),
        ("samples × tokens", _some(c.sizes.replace(" x ", " × ") for c in cells)),
        ("until", _some(until)),
        ("dtype", _some(c.dtype for c in cells)),
        ("device", _some(devices)),
        ("versions", _some(versions)),
        ("date", f"{days[0]} UTC" if len(days) == 1 else f"{days[0]} to {days[-1]} UTC"),
        ("calibration", _some(c.key[:16] for c in cells)),
    ]
    return [(term, text) for term, text in facts if text]


def commands(a: Answer) -> list[str]:
    """The command lines that gave the cells, one per sweep; of a sweep that left none, what recomputes a cell."""
    lines: dict[str, None] = {}
    for cell in a.runs.listed:
        if words := hydra_files.sweep_overrides(cell.path.parent):
            lines[_command(words, " -m")] = None
        elif (words := hydra_files.overrides(cell.path)) is not None:
            lines[_command(words)] = None
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


def _some(values: Iterable[str]) -> str:
    different = list(dict.fromkeys(v for v in values if v))
    more = f" and {len(different) - FEW} more" if len(different) > FEW else ""
    return "; ".join(different[:FEW]) + more


def _command(overrides: list[str], multirun: str = "") -> str:
    return " ".join([f"{spelled('run')}{multirun}", *map(quote, overrides)])
