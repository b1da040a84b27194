"""The command that computes a cell again, for its reader to go on with."""

from __future__ import annotations

import shlex
from pathlib import Path

from sweep.core.cli import spelled
from sweep.runs import hydra_files
from sweep.runs.compared import Cell

USUAL = {"format": "int8", "granularity": "tensor", "dtype": "float32", "data": "stdlib", "model": "tiny"}


def command(cell: Cell, measure: bool = False) -> str:
    """`python -m sweep …` with the cell's overrides; measure: with evaluation added."""
    words = _asked(cell.path) or _described(cell)
    if cell.alpha is None:  # which the method ignores
        words = [word for word in words if not word.startswith("alpha=")]
    if measure:
        words = [word for word in words if not word.startswith("evaluate.perplexity")] + ["evaluate.perplexity=true"]
    return " ".join([spelled("run"), *map(shlex.quote, words)])


def broken(text: str, width: int) -> str:
    """A command in lines of at most `width` columns that a shell still takes for one, as far as its words allow."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + len(word) + 3 > width:
            lines.append("  ")
        lines[-1] += word if not lines[-1].strip() else f" {word}"
    return " \\\n".join(lines)


def _asked(path: Path) -> list[str]:
    """The overrides that Hydra keeps beside a cell; an experiment's own are among them."""
    words = [word for word in hydra_files.overrides(path) or () if "=" in word]
    return list(dict.fromkeys(w for w in words if not w.startswith(("experiment=", "dtype=float32", "wandb."))))


def _described(cell: Cell) -> list[str]:
    words = {"model": cell.model, "method": cell.method}
    if cell.alpha is not None:
        words["alpha"] = f"{cell.alpha:.10g}"
    words |= {"format": cell.format, "granularity": cell.granularity, "dtype": cell.dtype, "data": cell.data}
    samples, _, length = cell.sizes.partition(" x ")
    words |= {"calibration.samples": samples, "calibration.seqlen": length}
    return [f"{key}={value}" for key, value in words.items() if USUAL.get(key) != value]
