"""Costs of a sweep's cells at every layer and site: the options that a recipe is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from sweep.config.recipe import Choice
from sweep.core.errors import UsageError
from sweep.quantization import formats
from sweep.quantization.methods.registry import METHODS
from sweep.quantization.sites import quantized
from sweep.quantization.types import SiteKey
from sweep.runs.compared import Cell, read
from sweep.runs.discovery import find

COLUMNS = ("layer", "site", "n", "method", "alpha", "format", "loss")


@dataclass(frozen=True, eq=False)
class Whole:
    """A cell as it is: its choices, its predicted loss and its bits a value on average."""

    cell: Cell
    choices: dict[SiteKey, Choice]
    loss: float
    bits: float

    @property
    def choice(self) -> Choice | None:
        """The one that holds everywhere; None where there are several, which is a recipe."""
        different = set(self.choices.values())
        return different.pop() if len(different) == 1 else None


@dataclass(frozen=True, eq=False)
class Options:
    """cells: those that can be chosen from. skipped: why others are not, a line each. values: of every site that is
    quantized. costs: of every site and choice, nats per token."""

    cells: list[Whole]
    skipped: list[str]
    values: dict[SiteKey, int]
    costs: dict[SiteKey, dict[Choice, float]]


def gather(patterns: Sequence[str]) -> Options:
    """From the cells under directories or globs.

    Raises UsageError where none has predicted loss, and where they are not of one calibration."""
    cells, problems = read(find(patterns))
    skipped = [str(problem) for problem in problems]
    taken: list[Whole] = []
    values: dict[SiteKey, int] = {}
    costs: dict[SiteKey, dict[Choice, float]] = {}
    for cell in cells:
        if cell.granularity != "tensor":
            skipped.append(f"{cell.path}: granularity={cell.granularity}; a recipe has one scale for a layer's site")
            continue
        rows = _rows(cell)
        if isinstance(rows, str):
            skipped.append(f"{cell.path}: {rows}")
            continue
        if taken and cell.calibration != taken[0].cell.calibration:
            raise UsageError(
                f"{cell.path} observed something else than {taken[0].cell.path} (model, tokens, dtype or sizes): "
                "losses of different calibrations cannot be weighed against each other; name the cells of one"
            )
        if taken and rows.keys() != costs.keys():
            raise UsageError(
                f"{cell.path} has other layers or sites than {taken[0].cell.path}; name cells of one model"
            )
        for site, (number, choice, loss) in rows.items():
            if values.setdefault(site, number) != number:
                raise UsageError(f"{cell.path}: {site[1]} of layer {site[0]} has other values than in the cells before")
            costs.setdefault(site, {}).setdefault(choice, loss)
        chosen = {site: choice for site, (_, choice, _) in rows.items()}
        weights = {site: number * formats.named(chosen[site].format).bits for site, (number, _, _) in rows.items()}
        whole = math.fsum(loss for _, _, loss in rows.values())
        taken.append(Whole(cell, chosen, whole, sum(weights.values()) / sum(values.values())))
    if not taken:
        raise UsageError(f"no cell to make a recipe of; the first: {skipped[0]}")
    return Options(taken, skipped, values, costs)


def _rows(cell: Cell) -> dict[SiteKey, tuple[int, Choice, float]] | str:
    """Number of values, choice and loss of every quantized site; or why there are none."""
    path = cell.path / "scales.parquet"
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(columns=list(COLUMNS))  # those that there are
    except (OSError, ValueError, pa.ArrowException) as error:
        return f"scales.parquet: {str(error).splitlines()[0]}"
    if "loss" not in table.column_names:
        return "written before losses were predicted; start the cell again with calibration.fisher=64"
    rows: dict[SiteKey, tuple[int, Choice, float]] = {}
    for row in table.to_pylist():
        if row["site"] in quantized():
            if row["loss"] is None:
                return "no predicted loss; run the sweep with calibration.fisher=64"
            if row["method"] not in METHODS:
                return f"method={row['method']} is unknown here"
            rows[row["layer"], row["site"]] = (
                row["n"],
                Choice(row["method"], row["alpha"], row["format"]),
                row["loss"],
            )
    return rows or "no quantized site"
