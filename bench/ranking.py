"""Does predicted loss rank settings as the measured KL does, what the method and the recipes that use it gain, and
what it costs to read off. Networks: the shipped one, and a Mamba-1 and a hybrid that are trained here."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from scipy.stats import kendalltau, spearmanr

from bench.grid import command
from bench.memory import ROOT
from bench.race import table
from sweep.compare.recipes.allocate import Knapsack, Option
from sweep.compare.recipes.command import run as write_recipe
from sweep.quantization.formats import named
from sweep.quantization.sites import quantized
from sweep.runs.tracking import view

FORMATS = ("int8", "int4", "fp8_e4m3", "fp8_e5m2", "e2m1")
ALPHAS = "0.99,0.999,0.9995,0.9999,0.99999"
TEXTS, LENGTH = 64, 512  # held out; as many are calibrated and differentiated
STEPS = 400
TRAINED = {"Mamba-1, trained here": "mamba", "hybrid (Bamba), trained here": "bamba"}
BUDGET = 6  # bits: half of the values in int4, the others in int8


def cells(directory: str, *given: str) -> list[dict[str, Any]]:
    """The records of the cells of a multirun that is made here, evaluated."""
    command(
        "-m",
        *given,
        f"calibration.samples={TEXTS}",
        f"calibration.fisher={TEXTS}",
        "evaluate.perplexity=true",
        f"evaluate.samples={TEXTS}",
        f"hydra.sweep.dir={directory}",
    )
    return [json.loads(path.read_text()) | {"path": path.parent} for path in sorted(Path(directory).rglob("run.json"))]


def forty(name: str, *given: str) -> list[dict[str, Any]]:
    """minmax, mse, entropy and percentile at five alphas in five formats."""
    formats = ",".join(FORMATS)
    return cells(f"runs/{name}-methods", *given, "method=minmax,mse,entropy", f"format={formats}") + cells(
        f"runs/{name}-alphas", *given, "method=percentile", f"alpha={ALPHAS}", f"format={formats}"
    )


def sqnr(cell: dict[str, Any]) -> float:
    """dB, the mean over all quantized sites of all layers."""
    return float(view.read(cell["path"]).summary[view.MEAN_SQNR])


def kl(cell: dict[str, Any]) -> float:
    """Nats per token, measured on held-out text."""
    return float(cell["evaluation"]["kl"])


def ranks(network: str, measured: Sequence[dict[str, Any]], at_least: float) -> dict[str, Any]:
    true = np.array([kl(cell) for cell in measured])
    predicted = np.array([cell["loss"]["loss"] for cell in measured])
    decibels = np.array([sqnr(cell) for cell in measured])
    factor = true / predicted
    return {
        "network": network,
        "cells": len(measured),
        "Spearman": float(spearmanr(predicted, true)[0]),
        "at least": at_least,
        "Kendall": float(kendalltau(predicted, true)[0]),
        "Spearman of mean SQNR": float(spearmanr(-decibels, true)[0]),
        "measured / predicted, median": float(np.median(factor)),
        "from": float(factor.min()),
        "to": float(factor.max()),
    }


def train(family: str) -> None:
    subprocess.run([sys.executable, "-m", "bench.trained", family, os.path.abspath(family), str(STEPS)], cwd=ROOT,
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip


def by_sqnr(measured: Sequence[dict[str, Any]], like: Path) -> Path:
    """The recipe of the highest mean SQNR within the budget, in the file format of the one at `like`."""
    options: dict[tuple[int, str], dict[int, tuple[float, dict[str, Any]]]] = {}
    values: dict[tuple[int, str], int] = {}
    for cell in measured:
        for row in pq.read_table(cell["path"] / "scales.parquet").to_pylist():
            if row["site"] in quantized():
                site, bits = (row["layer"], row["site"]), named(row["format"]).bits
                choice = {key: row[key] for key in ("method", "alpha", "format")}
                values[site] = row["n"]
                best = options.setdefault(site, {})
                if bits not in best or row["sqnr_db"] > best[bits][0]:
                    best[bits] = (row["sqnr_db"], choice)
    sites = list(options)
    pairs = [sorted(options[site].items()) for site in sites]
    items = [[Option(-decibels, bits) for bits, (decibels, _) in pair] for pair in pairs]
    allocation = Knapsack(items, [values[site] for site in sites]).least_cost(BUDGET)  # type: ignore[arg-type]
    assert allocation is not None
    recipe = yaml.safe_load(like.read_text())
    for site, pair, j in zip(sites, pairs, allocation.taken, strict=True):
        recipe["layers"][site[0]][site[1]].update(pair[j][1][1])
    path = like.with_name("by-sqnr.yaml")
    path.write_text(yaml.safe_dump(recipe))
    return path


def gains() -> list[dict[str, Any]]:
    """What is chosen by predicted loss against what is chosen by squared error, on the shipped model."""
    chosen = cells("runs/clips", "method=loss,mse", "format=int8,e2m1,int4")
    of = {(cell["config"]["method"], cell["config"]["format"]): kl(cell) for cell in chosen}
    rows = [
        {
            "what": f"{format}, method=loss against mse",
            "measured KL, by loss": of["loss", format],
            "by squared error": of["mse", format],
            "ratio": of["loss", format] / of["mse", format],
            "at most": most,
        }
        for format, most in (("int8", 0.85), ("e2m1", 0.85), ("int4", 0.97))
    ]
    wide = [c for c in chosen if c["config"]["format"] in ("int8", "int4")]
    sweep = Path("runs/halves")
    sweep.mkdir(parents=True)
    for cell in wide:
        (sweep / Path(cell["path"]).name).symlink_to(Path(cell["path"]).resolve())
    ours = Path("by-loss.yaml").resolve()
    with redirect_stdout(io.StringIO()):
        write_recipe([str(sweep), "--bits", str(BUDGET), "--out", str(ours)])
    mixed = {}
    for path in (ours, by_sqnr(wide, ours)):
        (mixed[path.stem],) = cells(f"runs/{path.stem}", f"recipe={path}")
    loss, squared = kl(mixed["by-loss"]), kl(mixed["by-sqnr"])
    rows.append(
        {
            "what": "half of the values in 4 bits: recipe by loss against the best mean SQNR",
            "measured KL, by loss": loss,
            "by squared error": squared,
            "ratio": loss / squared,
            "at most": 0.85,
        }
    )
    return rows


def main() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as temporary, chdir(temporary):
        shipped = forty("shipped")
        rows = [ranks("shipped Mamba-2", shipped, 0.98)]
        for network, family in TRAINED.items():
            train(family)
            rows.append(ranks(network, forty(family, f"model.path={os.path.abspath(family)}"), 0.95))
        title = f"Predicted loss against measured KL, {TEXTS} held-out texts of {LENGTH} tokens"
        table(title, rows)
        return rows + table("What is chosen by predicted loss, nats per token", gains())


if __name__ == "__main__":
    main()
