"""Competitors side by side: each in a process of its own, one repeat in turn, so that a busy machine is fair to all."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from typing import Any

USUAL = {"GOMP_SPINCOUNT": "300000"}  # what libgomp does by itself
Laps = list[dict[str, Any]]  # seconds, cpu (seconds of processor time), peak_mb, and what the competitor returned


def race(
    competitors: Mapping[str, tuple[str, dict[str, Any]]],
    repeats: int = 7,
    warmup: int = 1,
    foreign: Collection[str] = (),
) -> dict[str, Laps]:
    """Laps of every competitor. A competitor is `module:function` and its arguments; the function sets up and
    returns what is to be timed. foreign: those that are not this project's; what it sets for torch's threads is as
    usual for them. Raises RuntimeError where one fails."""
    processes = {}
    for name, (function, arguments) in competitors.items():
        command = [sys.executable, "-m", "bench.race", function, json.dumps(arguments)]
        environment = {**os.environ, **(USUAL if name in foreign else {})}
        processes[name] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        _lap(name, processes[name])  # set up one after the other
    laps: dict[str, Laps] = {name: [] for name in competitors}
    for repeat in range(warmup + repeats):
        for name, process in processes.items():
            lap = _lap(name, process)
            if repeat >= warmup:
                laps[name].append(lap)
    for process in processes.values():
        process.communicate()
    return laps


def _lap(name: str, process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it failed; its exit code says so below
        print("go", file=process.stdin, flush=True)
    for line in process.stdout:
        if line.startswith("lap "):
            return json.loads(line.removeprefix("lap "))  # type: ignore[no-any-return]
    raise RuntimeError(f"{name} failed (exit code {process.wait()})")


def median(laps: Laps, key: str = "seconds") -> float:
    return statistics.median(lap[key] for lap in laps)


def ratio(laps: Laps, reference: Laps, key: str = "seconds") -> float:
    """Median over the rounds of the ratio within a round, in which both met the same machine."""
    return statistics.median(a[key] / b[key] for a, b in zip(laps, reference, strict=True))


def table(title: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print rows as Markdown under a title, and give them back."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    print(f"**{title}**\n")
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(_cell(row.get(column)) for column in columns) + " |")
    print(flush=True)
    return rows


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else str(value)


def _run(function: str, arguments: dict[str, Any]) -> None:
    module, _, name = function.partition(":")
    step = None
    for _ in sys.stdin:
        if step is None:
            step = getattr(importlib.import_module(module), name)(**arguments)
            found: dict[str, Any] = {}
        else:
            cpu, start = time.process_time(), time.perf_counter()
            returned = step()
            found = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
            found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            if isinstance(returned, dict):
                found.update(returned)
        print("lap", json.dumps(found), flush=True)


if __name__ == "__main__":
    _run(sys.argv[1], json.loads(sys.argv[2]))
