"""A site is a row of `quantization.sites` and a tap of `models.mixer`: all else follows from the two."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import small
import torch

from sweep.__main__ import help_text
from sweep.calibration.taps import taps
from sweep.compare import __main__ as compare
from sweep.compare.query import database
from sweep.config.config import Config
from sweep.config.knobs import Data, Evaluate, Model
from sweep.core.errors import UsageError
from sweep.models import load
from sweep.models.mixer import TAPS, Point, Tap
from sweep.quantization import sites
from sweep.quantization.sites import SITES, Channels, Site
from tests.harness import ROOT, Run

GATE, STEP = "z_proj_out", "dt_proj_out"


@pytest.fixture(autouse=True)
def gate_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SSM's gate, which is quantized, and dt, which is not; both are channels of what in_proj gives."""
    monkeypatch.setitem(SITES, GATE, Site(GATE, "the gate z", quantized=True, channels=Channels.HEADS))
    monkeypatch.setitem(SITES, STEP, Site(STEP, "the step dt before its bias"))
    out = Point.IN_PROJ_OUT
    monkeypatch.setitem(TAPS, GATE, Tap(out, lambda m: slice(m.entry.start - m.d_inner, m.entry.start)))
    monkeypatch.setitem(TAPS, STEP, Tap(out, lambda m: slice(-m.n_heads, None)))


def test_it_is_read_where_the_tap_says(tmp_path: Path) -> None:
    model = load.load(small_model(tmp_path), "cpu", "float32")
    seen: dict[Any, Any] = {}
    projected: list[torch.Tensor] = []
    model.mixers[1].in_proj.register_forward_hook(lambda m, args, out: projected.append(out))
    with taps(model.mixers, lambda layer, site, x: seen.update({(layer, site): x})) as fired, torch.inference_mode():
        model.backbone(torch.arange(40)[None])
        fired.check(40)
    z, _, dt = projected[0].split([64, 80, 4], -1)
    assert torch.equal(seen[1, GATE], z)
    assert torch.equal(seen[1, STEP], dt)
    assert model.mixers[1].widths[GATE] == 64
    assert model.mixers[1].widths[STEP] == 4


def small_model(path: Path) -> Model:
    return Model("small", str(small.write(path / "model")))


def test_it_is_in_tables_losses_evaluation_report_and_help(
    sweep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small.files(tmp_path)
    asked = ("calibration.fisher=4", "evaluate.perplexity=true", "evaluate.samples=4", "format=int4")
    done = sweep(*small.overrides(tmp_path), *asked, "hydra.run.dir=runs/s/0")
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "runs/s/0/scales.parquet").to_pylist()
    assert {row["layer"] for row in rows if row["site"] == GATE} == {0, 1}
    assert all(row["loss"] > 0 for row in rows if row["site"] == GATE)  # differentiated
    assert all(row["loss"] is None and row["scale"] > 0 for row in rows if row["site"] == STEP)
    record = json.loads((tmp_path / "runs/s/0/run.json").read_text())
    assert GATE in record["evaluation"]["sites"]  # and every value of it was rounded, or the pass had been refused
    assert GATE in record["loss"]["sites"]
    assert record["config"]["evaluate"]["sites"] == list(sites.quantized())

    done = sweep(*small.overrides(tmp_path), *asked, f"evaluate.sites=[{GATE}]", "hydra.run.dir=runs/s/1")
    assert done.returncode == 0, done.stderr
    alone = json.loads((tmp_path / "runs/s/1/run.json").read_text())["evaluation"]
    assert 0 < alone["kl"] < record["evaluation"]["kl"]

    monkeypatch.setattr("sys.argv", ["sweep.compare", "runs/s", "--html", "report.html"])
    assert compare.main() == 0
    report = (tmp_path / "report.html").read_text()
    options = re.search(r"<select[^>]*>((?:\s*<option[^>]*>\w+</option>)*\s*<option[^>]*>" + GATE + ")", report)
    assert options
    shown = re.findall(r"<option[^>]*>(\w+)", options[1])
    assert shown == sites.ordered(shown)
    assert f"{GATE}: the gate z" in report
    assert f"out_proj_in, {GATE}: " in report  # the quantized sites
    assert GATE in database.deployed()
    assert STEP not in database.deployed()


def test_knob_and_help_know_it() -> None:
    assert f"  {GATE:<16}the gate z\n" in help_text()
    assert STEP not in help_text()
    assert Evaluate().sites == list(sites.quantized())
    assert Config(Model("tiny", "nowhere"), Data("stdlib")).label == "tiny percentile a=0.9995 int8 tensor"
    assert Evaluate(sites=[GATE.upper()]).sites == [GATE]
    assert Evaluate(sites=["out_proj_in", "quantized"]).sites[0] == "out_proj_in"
    with pytest.raises(
        UsageError, match=rf"evaluate.sites={STEP} is unknown; allowed: in_proj_in, .*{GATE}, quantized"
    ):
        Evaluate(sites=[STEP])


def test_definitions_have_a_row_for_each_site_of_the_package() -> None:
    text = (ROOT / "docs/definitions.md").read_text()
    for name in SITES.keys() - {GATE, STEP}:
        row = re.search(rf"\n\| `{name}` \|.*\|\n", text)
        assert row, name
        assert ("yes" in row[0]) == SITES[name].quantized


def test_every_site_has_its_tap_or_is_asked_for_by_a_knob() -> None:
    assert SITES.keys() == TAPS.keys() | {name for name, site in SITES.items() if site.knob}
    for site in SITES.values():
        assert site.before is None or not SITES[site.before].quantized
