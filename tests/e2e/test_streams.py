"""Streams and locales that cannot carry what is said, and an installation that cannot be written."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import small

from sweep.core.streams import plain
from tests.harness import ROOT, command

pytestmark = pytest.mark.slow

STREAMS = {
    "ascii": {"PYTHONIOENCODING": "ascii", "LC_ALL": "C.UTF-8"},
    "latin-1": {"PYTHONIOENCODING": "latin-1", "LC_ALL": "C.UTF-8"},
    "POSIX": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
COMMANDS = (
    ["sweep", "--help"],
    ["sweep.runs", "."],
    ["sweep.store", "list"],
    ["sweep.store", "verify"],
    ["sweep.compare", ".", "--no-html"],
    ["sweep.compare", ".", "--format", "markdown"],
    ["sweep.compare", ".", "--format", "latex"],
    ["sweep.reproduce", "many/0"],
    ["sweep.track", "replay", "many", "--mode", "offline"],
)


TABLE = ["sweep.compare", ".", "--table", "cells", "--format"]
# Each command in a fork of a process that has imported what takes the time; its own streams are as at the start.
FORKS = """
import json, os, runpy, sys
import duckdb, pandas, sweep.compare.answer, sweep.runs.cell, transformers
for number, words in enumerate(json.loads(sys.argv[1])):
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    for stream, name in (1, "out"), (2, "err"):
        os.dup2(os.open(f"{sys.argv[2]}/{number}.{name}", os.O_WRONLY | os.O_CREAT), stream)
    sys.argv[:] = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    sys.exit()
"""


@dataclass(frozen=True)
class Said:
    """The stdout of every command, in order, and where the grid lies."""

    place: Path
    out: list[bytes]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cells of a model that is called what an ascii stream cannot say."""
    root = tmp_path_factory.mktemp("many")
    small.files(root)
    words = [*small.overrides(root), "model.name='modèle–7'", "alpha=0.9,0.99", "hydra.sweep.dir=many"]
    done = command(root, "sweep", "-m", *words)
    assert done.returncode == 0, done.stderr
    return root


def run(directory: Path, stream: str, said: Path, *commands: list[str]) -> Iterator[bytes]:
    """What each `python -m COMMAND`, one after the other, says on stdout; none may fail or complain."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS, json.dumps(commands), str(said)],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **STREAMS[stream]},
        capture_output=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    codes = done.stdout.decode().split()
    for number, (words, code) in enumerate(zip(commands, codes, strict=True)):
        out, err = ((said / f"{number}.{name}").read_bytes() for name in ("out", "err"))
        assert code == "0", (words, err.decode("latin-1"))
        assert b"Error" not in err, (words, err)
        assert b"Traceback" not in err, (words, err)
        assert b"Logging error" not in err, (words, err)
        yield out


@pytest.fixture(scope="module", params=STREAMS)
def said(request: pytest.FixtureRequest, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Said:
    """What each command says where the streams are of that kind, and a grid of two cells with the rest.

    All of them go through one function; latin-1 has letters that ascii lacks, and meets the data for programs alone."""
    place, stream = tmp_path_factory.mktemp("said"), request.param
    name = "'modèle–7'" if stream != "POSIX" else "plain"  # that locale has no such file names either
    grid = ["sweep", "-m", *small.overrides(finished), f"model.name={name}", "alpha=0.9,0.99"]
    commands = [
        *(COMMANDS if stream != "latin-1" else ()),
        [*TABLE, "json"],
        [*TABLE, "csv"],
        [*grid, f"hydra.sweep.dir={place / 'grid'}"],
    ]
    return Said(place, list(run(finished, stream, place, *commands)))


@pytest.mark.parametrize("said", ["ascii", "POSIX"], indirect=True)
def test_every_command_says_it_in_other_letters(said: Said) -> None:
    for words, out in zip(COMMANDS, said.out[: len(COMMANDS)], strict=True):
        assert out.isascii(), words
    assert b"modele-7" in said.out[COMMANDS.index(["sweep.runs", "."])]


def test_a_grid_runs_and_data_for_programs_never_fails(said: Said) -> None:
    data, table, _ = said.out[-3:]
    assert "modèle–7" in json.dumps(json.loads(data.decode()), ensure_ascii=False)
    assert any("modèle–7" in cell for row in csv.reader(io.StringIO(table.decode())) for cell in row)
    assert len(list((said.place / "grid").glob("*/run.json"))) == 2


def test_what_plain_letters_make_of_others() -> None:
    assert plain("modèle–7 ± 1 µs → ½ … Ω") == "modele-7 +- 1 us -> 1/2 ... \\u03a9".replace("1/2", plain("½"))
    assert plain("日本") == "\\u65e5\\u672c"
    assert all(plain(chr(n)).isascii() for n in range(0x3000))


def test_without_a_place_for_its_cache_numba_compiles_anew(tmp_path: Path) -> None:
    shutil.copy(ROOT / "sweep/calibration/count_cpu.py", tmp_path / "tally.py")
    (tmp_path / "__pycache__").write_text("no directory: nothing can be written into it, not even by root")
    program = """
import torch, tally
x = torch.randn(1, 2, 4)
counts, low, high = torch.zeros(65536, dtype=torch.int32), torch.zeros(1, 4), torch.zeros(1, 4)
print(tally.tally(x, counts, low, high, torch.zeros(1, 4, dtype=torch.float64), torch.zeros(1, 4)), counts.sum())
"""
    closed = {"NUMBA_CACHE_DIR": "/dev/null/a", "XDG_CACHE_HOME": "/dev/null/b", "HOME": "/dev/null"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path, env={**os.environ, **closed}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "tensor([True]) tensor(8)\n"
    (line,) = done.stderr.splitlines()
    assert "NUMBA_CACHE_DIR" in line
