"""`sweep.compare --log-wandb`, read back from W&B's own offline log."""

from __future__ import annotations

import json
from pathlib import Path

from synthetic import mamba, write
from wandb_runs import inspect

from tests.harness import command


def test_a_comparison_becomes_one_offline_run_of_the_sweeps_group(tmp_path: Path) -> None:
    world = mamba(layers=2, size=200)
    for alpha in (0.9995, 0.99999):
        write(tmp_path / "runs" / "grid" / str(alpha), world, alpha=alpha)
    write(tmp_path / "runs" / "grid" / "g", world, method="minmax", grid=(2, 2))
    done = command(
        tmp_path, "sweep.compare", "runs/grid", "--no-html", "--log-wandb",
        WANDB_MODE="offline", HOME=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    (place,) = (tmp_path / "runs" / "grid" / "wandb").glob("offline-run-*")
    assert f"wandb sync {place.resolve()}" in done.stderr
    log = inspect(place)
    assert log.exit_code == 0
    shown = json.dumps(log.run)
    assert '"grid"' in shown
    assert "comparison of grid" in shown
    keys = {key for item in log.history for key in item} | set(log.summary)
    for table in ("tables/verdicts", "tables/alpha", "tables/tail", "answer/questions", "answer/verdicts"):
        assert any(key.startswith(table) for key in keys), table
    for chart in ("charts/scales", "charts/histogram", "charts/gain"):
        assert any(key.startswith(chart) for key in keys), chart
    assert len(list((place / "files").rglob("*.png"))) >= 5
    (questions,) = (place / "files").rglob("questions*.table.json")
    content = json.loads(questions.read_text())
    assert content["columns"] == ["question", "the study said", "verdict", "answer"]
    assert content["data"][0][0] == "What does alpha do?"
    assert len(content["data"]) == 9
    again = command(tmp_path, "sweep.compare", "runs/grid", "--no-html")  # its own files are no cells
    assert "3 cells" in again.stdout


def test_a_disabled_wandb_is_said_in_one_line(tmp_path: Path) -> None:
    write(tmp_path / "a", mamba(layers=1, size=50))
    done = command(tmp_path, "sweep.compare", "a", "--no-html", "--log-wandb", WANDB_MODE="disabled")
    assert done.returncode == 2
    assert done.stderr.startswith("error: W&B")
    assert done.stderr.count("\n") == 1
