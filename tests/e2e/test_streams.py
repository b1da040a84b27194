"""Streams and locales that cannot carry what is said, and an installation that cannot be written."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import small

from sweep.core.streams import plain
from tests.harness import ROOT, Done, command

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


def run(directory: Path, env: dict[str, str], *arguments: str) -> Done:
    """`python -m ARGUMENTS` whose output is bytes, read as UTF-8 where it is not plain."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **env},
        capture_output=True,
        timeout=240,
    )
    return subprocess.CompletedProcess(arguments, done.returncode, done.stdout.decode(), done.stderr.decode("latin-1"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cells of a model that is called what an ascii stream cannot say."""
    root = tmp_path_factory.mktemp("many")
    small.files(root)
    words = [*small.overrides(root), "model.name='modèle–7'", "alpha=0.9,0.99", "hydra.sweep.dir=many"]
    done = command(root, "sweep", "-m", *words)
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize("stream", ["ascii", "POSIX"])
def test_every_command_says_it_in_other_letters(finished: Path, stream: str) -> None:
    for arguments in COMMANDS:
        done = run(finished, STREAMS[stream], *arguments)
        assert done.returncode == 0, (arguments, done.stderr)
        assert "Error" not in done.stderr, (arguments, done.stderr)
        assert done.stdout.isascii(), arguments
    assert "modele-7" in run(finished, STREAMS[stream], "sweep.runs", ".").stdout


@pytest.mark.parametrize("stream", STREAMS)
def test_a_grid_runs(finished: Path, tmp_path: Path, stream: str) -> None:
    name = "'modèle–7'" if stream != "POSIX" else "plain"  # that locale cannot read an argument either
    words = [*small.overrides(finished), f"model.name={name}", "alpha=0.9,0.99", "hydra.sweep.dir=x"]
    done = subprocess.run(
        [sys.executable, "-m", "sweep", "-m", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), **STREAMS[stream]},
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr.decode("latin-1")
    assert b"Traceback" not in done.stderr
    assert b"Logging error" not in done.stderr
    assert len(list((tmp_path / "x").glob("*/run.json"))) == 2


@pytest.mark.parametrize("stream", STREAMS)
def test_data_for_programs_never_fails(finished: Path, stream: str) -> None:
    env = STREAMS[stream]
    table = ("sweep.compare", ".", "--table", "cells")
    found = json.loads(run(finished, env, *table, "--format", "json").stdout)
    assert "modèle–7" in json.dumps(found, ensure_ascii=False)
    rows = list(csv.reader(io.StringIO(run(finished, env, *table, "--format", "csv").stdout)))
    assert any("modèle–7" in cell for row in rows for cell in row)


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
