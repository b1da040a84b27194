"""What is said of a cell as a whole is said of the sites that a deployment quantizes, and of no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import mamba, write

from sweep.compare import load
from sweep.compare.analysis.differences import evidence
from sweep.compare.answer import answer
from sweep.compare.tables.catalogue import tables
from sweep.quantization.sites import quantized


def test_the_state_changes_no_mean(tmp_path: Path) -> None:
    """A cell that observed the SSM's state, too, has the same mean SQNR, rank and differences as without."""
    world = mamba(layers=2, size=300)
    loud = {(layer, "ssm_state"): [100 * v**3 for v in world.values[layer, "out_proj_in"]] for layer in range(2)}
    for name, here in (("with", replace(world, values=world.values | loud)), ("without", world)):
        for alpha in (0.99, 0.9995):
            write(tmp_path / name / str(alpha), here, alpha=alpha)
    a, b = (answer(load(tmp_path / name)) for name in ("with", "without"))
    assert "ssm_state" in a.runs.sites
    columns = {t.name: t.frame() for t in tables(a)}, {t.name: t.frame() for t in tables(b)}
    assert columns[0]["cells"]["mean SQNR dB"].tolist() == pytest.approx(columns[1]["cells"]["mean SQNR dB"].tolist())
    assert columns[0]["settings"]["mean SQNR dB"].tolist() == pytest.approx(
        columns[1]["settings"]["mean SQNR dB"].tolist()
    )
    both = [evidence(x.runs, [(0, 1)], [True])[0].overall for x in (a, b)]
    assert both[0] == pytest.approx(both[1])


def test_a_run_that_observed_more_agrees_with_one_that_did_not(tmp_path: Path) -> None:
    """They are one cell twice, which agrees wherever both looked; a scale that differs there is still told."""
    world = mamba(layers=2, size=300)
    state = {(layer, "ssm_state"): world.values[layer, "out_proj_in"] for layer in range(2)}
    write(tmp_path / "with", replace(world, values=world.values | state))
    write(tmp_path / "without", world)
    assert answer(load(tmp_path)).notes == ["1 cell was run more than once and agrees bit for bit"]
    write(tmp_path / "other", mamba(layers=2, size=300, seed=1))
    assert "do not agree" in answer(load(tmp_path)).notes[0]


def test_one_definition() -> None:
    """Every mention of quantized sites in a comparison goes back to the registry that evaluation takes, too."""
    room = Path(load.__code__.co_filename).parents[1]
    for path in (room / "analysis", room / "tables", room / "query"):
        for file in path.glob("*.py"):
            text = file.read_text()
            assert "ends_with(site" not in text, file
            assert 'endswith("_pre")' not in text, file
    assert not {site for site in quantized() if site.endswith("_pre") or site == "ssm_state"}


def test_alpha_is_null_where_the_method_ignores_it(tmp_path: Path) -> None:
    world = mamba(layers=1, size=60)
    write(tmp_path / "a", world, method="minmax", alpha=0.99)
    write(tmp_path / "b", world, alpha=0.99)
    frame = next(t for t in tables(answer(load(tmp_path))) if t.name == "cells").frame()
    assert frame.alpha.isna().tolist() == [True, False]
