"""Seconds from the command to the first forward pass of the shipped model, and how many of them are imports that
any program pays which runs transformers' Mamba-2."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench.race import table

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 7
# says when the first batch would enter the network, and ends there
COMMAND = """
import dataclasses, os, sys, time
from sweep import __main__
from sweep.core import cli
from sweep.models import load
def instead(*arguments, original=load.load):
    def backbone(ids):
        print(time.time(), flush=True)
        os._exit(0)
    return dataclasses.replace(original(*arguments), backbone=backbone)
load.load = instead
sys.argv = ["sweep", "wandb.mode=disabled", "hydra.run.dir=run", "store=store"]
cli.run(__main__.main)
"""
LIBRARIES = """
import time
from transformers.models.mamba2.modeling_mamba2 import Mamba2ForCausalLM
print(time.time())
"""


def seconds(program: str) -> float:
    """From the start of a process to the time it prints, in an empty directory."""
    with tempfile.TemporaryDirectory() as place:
        begin = time.time()
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=place, env=environment, capture_output=True, text=True, check=True
        )
        return float(done.stdout.split()[-1]) - begin


def main() -> list[dict[str, Any]]:
    programs = {
        "until the first forward": COMMAND,
        "imports of torch and transformers alone": LIBRARIES,
    }
    found: dict[str, list[float]] = {what: [] for what in programs}
    for repeat in range(1 + REPEATS):
        for what, program in programs.items():
            spent = seconds(program)
            if repeat:  # the first one warms the disk's cache
                found[what].append(spent)
    rows: list[dict[str, Any]] = [{"what": what, "seconds": median(laps)} for what, laps in found.items()]
    rows[0]["at most"] = 2.5
    return table("`python -m sweep` with defaults, W&B disabled", rows)


if __name__ == "__main__":
    main()
