"""Imports run one way along the data flow, and the comparison needs neither torch nor wandb."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import ROOT

PACKAGE = ROOT / "sweep"


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the project that a file imports, at any depth of nesting."""
    wanted = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            wanted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            wanted |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return wanted & known.keys() - {"sweep"}


ROOMS = ("core", "quantization", "config", "models", "calibration", "evaluation", "runs", "grid", "compare")
KNOW_NOTHING_OF = {
    "core": {"hydra", "omegaconf", "wandb", "transformers", "numpy"},
    "quantization": {"torch", "hydra", "omegaconf", "wandb", "transformers"},
    "config": {"torch", "wandb", "transformers"},
    "models": {"wandb", "hydra"},
    "calibration": {"wandb", "hydra"},
    "evaluation": {"wandb", "hydra"},
    "compare": {"torch", "hydra", "transformers"},
}

# repeats Quamba's code with the sorts and norms that it calls
EXCEPT = {"sweep.quantization.published_clusters"}


def room(module: str) -> str | None:
    """The room of `sweep.ROOM.…`; None for the doors on the top level: the package, its command line."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 or ((PACKAGE / parts[-1]).is_dir() and len(parts) == 2) else None


def test_rooms_import_only_rooms_before_them_in_the_data_flow() -> None:
    known = modules()
    for name, path in known.items():
        if (own := room(name)) is None:
            continue
        assert own in ROOMS, f"{name} lies in no room; a new room has a place in the order"
        for other in imports(path, known) - {name}:
            assert (its := room(other)), f"{name} imports the door {other}"
            assert ROOMS.index(its) <= ROOMS.index(own), f"{name} imports {other}, which comes after it"


def test_there_are_no_cycles() -> None:
    known = modules()
    graph = {name: imports(path, known) - {name} for name, path in known.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"cycle: {' → '.join([*trail[trail.index(name) :], name])}"
        if name not in done:
            for other in sorted(graph[name]):
                if not other.startswith(f"{name}."):  # a package may gather its own parts
                    visit(other, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


@pytest.mark.parametrize("name", KNOW_NOTHING_OF)
def test_rooms_know_nothing_of(name: str) -> None:
    for module, path in modules().items():
        if room(module) == name and module not in EXCEPT:
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                taken = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                taken += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not {t.split(".")[0] for t in taken} & KNOW_NOTHING_OF[name], module


@pytest.mark.parametrize(
    ("chosen", "spins"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_how_long_threads_spin_is_set_before_torch_unless_the_user_has_chosen(
    chosen: dict[str, str], spins: str
) -> None:
    program = (
        "import os, sys, sweep.__main__; from sweep.core import cli; before = os.environ.get('GOMP_SPINCOUNT');"
        "cli.spin_briefly(); print(before, os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    )
    unset = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=unset | chosen, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [chosen.get("GOMP_SPINCOUNT", "None"), spins, "False"]  # an import changes nothing


def test_how_memory_is_kept_is_set_by_what_a_process_is_started_for() -> None:
    setters = [name for name, path in modules().items() if "malloc.keep()" in path.read_text()]
    assert sorted(setters) == ["sweep.grid.job", "sweep.runs.reproduce"]


def test_only_a_command_collects_garbage_rarely() -> None:
    """A caller of the library keeps the collector as it was."""
    program = (
        "import gc; usual = gc.get_threshold(); import sweep.__main__; from sweep.core import cli;"
        "print(gc.get_threshold() == usual); cli.run(lambda _: print(gc.get_threshold()[0]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, during = done.stdout.split()
    assert before == "True"
    assert int(during) >= 100_000
