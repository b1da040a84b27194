"""`python -m sweep.runs` on directories whose contents are known."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from synthetic import mamba, write

from sweep.runs.__main__ import main
from sweep.runs.plan_record import PlannedCell, PlanRecord
from tests.harness import ROOT, command


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root, world = tmp_path / "runs", mamba(layers=1, size=50)
    sweep = root / "grid"
    write(sweep / "0", world)
    write(sweep / "1", mamba(layers=1, size=50, model="130m"))
    write(sweep / "2", world, status="failed", error="CUDA out of memory")
    write(sweep / "3", world, status="running")
    write(sweep / "4", world)
    (sweep / "4" / "scales.parquet").write_bytes(b"PAR1 torn")
    write(sweep / "5", world)
    (sweep / "5" / "run.json").write_text('{"status": "fin')
    write(sweep / "6", world)
    (sweep / "6" / "scales.parquet").unlink()
    write(sweep / "7", world)
    (sweep / "7" / "run.json").write_text('{"status": "finished"}')
    (sweep / "8").mkdir()
    PlanRecord(tuple(PlannedCell(n, str(n), "", (), "", "") for n in range(12))).write(sweep)
    write(root / "2026-11-23_10-00-00", world)
    (root / "calibrations" / "0123").mkdir(parents=True)
    (root / "calibrations" / "0123" / "run.json").write_text("{}")
    return root


def listed(capsys: pytest.CaptureFixture[str], *paths: Path) -> tuple[dict[str, str], list[str]]:
    assert main([str(p) for p in paths]) == 0
    lines = capsys.readouterr().out.splitlines()
    damaged = [line for line in lines if line.startswith("damaged")]
    return {line.split()[0]: line for line in lines[1:] if line not in damaged}, damaged


def test_counts_models_and_damage(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, damaged = listed(capsys, runs)
    assert set(rows) == {str(runs / "grid"), str(runs / "2026-11-23_10-00-00")}
    grid = rows[str(runs / "grid")]
    assert "2 finished, 1 failed, 1 running, 3 waiting, 5 damaged" in grid
    assert "tiny, 130m" in grid
    assert "1 finished " in rows[str(runs / "2026-11-23_10-00-00")]
    why = dict(re.fullmatch(r"damaged: .*/(\d): (.*)", line).groups() for line in damaged)  # type: ignore[union-attr]
    assert why["4"] == "scales.parquet is torn"
    assert why["5"].startswith("run.json cannot be read")
    assert why["6"] == "scales.parquet is missing"
    assert why["7"].startswith("run.json lacks")
    assert why["8"] == "run.json is missing"


def test_age_and_size(runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    finished = 1795431660  # 2026-11-23T11:01:00+00:00, as run.json says
    single = runs / "2026-11-23_10-00-00"
    (single / "wandb").mkdir()
    (single / "wandb" / "log").write_bytes(os.urandom(3_000_000))
    for seconds, age in ((40, "40 s"), (90 * 60, "2 h"), (3 * 86400, "3 d")):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: finished + seconds)
        row = listed(capsys, single)[0][str(single)]
        assert re.search(rf" {age} +3\.\d MB$", row), row


def test_user_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert re.fullmatch(r"error: .*nowhere: no such directory.*\n", capsys.readouterr().err)
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    assert "no runs yet" in capsys.readouterr().out


def test_neither_torch_nor_wandb_is_imported(runs: Path) -> None:
    code = f"import sys; from sweep.runs.__main__ import main; main([{str(runs)!r}]); print(*sys.modules)"
    (runs / "probe.py").write_text(code)
    done = command(runs, "probe")
    assert done.returncode == 0, done.stderr
    assert not {"torch", "wandb", "transformers", "duckdb"} & set(done.stdout.splitlines()[-1].split())
    assert done.stdout.splitlines()[0].startswith("sweep")


def test_ten_thousand_cells_take_seconds(tmp_path: Path) -> None:
    cell = write(tmp_path / "runs" / "big" / "0", mamba(layers=1, size=20, folds=2, parts="x"))
    record = (cell / "run.json").read_bytes()
    for n in range(1, 10_000):
        place = tmp_path / "runs" / "big" / str(n)
        place.mkdir()
        (place / "run.json").write_bytes(record)
        os.link(cell / "scales.parquet", place / "scales.parquet")
    (tmp_path / "runs" / "big" / "plan.json").write_text("{}")
    before = time.process_time()
    assert main([str(tmp_path / "runs")]) == 0
    assert time.process_time() - before < 5


def test_the_command_runs() -> None:
    assert "sweep.runs" in command(ROOT, "sweep.runs", "--help").stdout
