"""Grids of three cells in the processes of joblib and on a real Ray."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import small

from tests.harness import command, require

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.mark.parametrize("launcher", ["joblib", "ray"])
def test_a_grid_of_three_cells(tmp_path: Path, launcher: str) -> None:
    plugin = f"hydra_plugins.hydra_{launcher}_launcher"
    require(importlib.util.find_spec(plugin), f"needs pip install hydra-{launcher}-launcher")
    cells = small.overrides(small.files(tmp_path))
    done = command(
        tmp_path, "sweep", "-m", *cells, "alpha=0.9,0.99,0.999", f"hydra/launcher={launcher}", OMP_NUM_THREADS="1"
    )
    assert done.returncode == 0, done.stderr + done.stdout
    found = {int(p.parent.name): json.loads(p.read_text()) for p in (tmp_path / "runs").glob("*/*/run.json")}
    assert sorted(found) == [0, 1, 2]
    assert {r["status"] for r in found.values()} == {"finished"}
    assert [found[n]["calibration"]["cached"] for n in range(3)] == [False, True, True]


def test_a_failing_cell_is_one_line(tmp_path: Path) -> None:
    require(importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher"), "needs pip install hydra-joblib-launcher")
    cells = small.overrides(small.files(tmp_path))
    (tmp_path / "model/model.safetensors").write_bytes(b"no weights")
    done = command(tmp_path, "sweep", "-m", *cells, "alpha=0.9,0.99", "hydra/launcher=joblib", OMP_NUM_THREADS="1")
    lines = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert done.returncode == 2, done.stderr + done.stdout
    assert len(lines) == 1
    assert "cannot be loaded" in lines[0]
    assert "(1 cell that needs its calibration failed with it)" in lines[0]
