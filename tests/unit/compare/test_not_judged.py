"""Verdicts of a knob of which some values were not evaluated: by cost among those of known cost, and said so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic import mamba, write

from sweep.compare import load
from sweep.compare.analysis.cost import MEASURED, PREDICTED, SQNR, Costs
from sweep.compare.analysis.rules import MATTERS, NOISE, UNRESOLVED
from sweep.compare.analysis.verdicts import Verdict
from sweep.compare.answer import Answer, answer, headlines
from sweep.compare.render import sentences
from sweep.compare.render.html import verdicts as cards
from sweep.compare.tables.catalogue import tables
from sweep.runs.ranks import ranks
from tests.unit.compare.test_cost import evaluated, lossy

WORLD = mamba(layers=2, size=200)


def judged(root: Path, baseline: str | None = None) -> tuple[Answer, Verdict]:
    a = answer(load(root), baseline)
    (v,) = a.verdicts
    return a, v


def three_of_four(root: Path) -> None:
    for alpha, kl in ((0.9995, 0.02), (0.999, 0.01), (0.95, 0.03)):
        evaluated(root / str(alpha), kl, 7.0, alpha=alpha)
    write(root / "0.5", WORLD, alpha=0.5)


def test_a_value_that_was_not_evaluated_does_not_turn_a_verdict_to_decibels(tmp_path: Path) -> None:
    three_of_four(tmp_path)
    a, v = judged(tmp_path)
    assert (v.kind, v.verdict) == (MEASURED, MATTERS)
    assert {n.value: round(n.more.value, 3) for n in v.nats} == {"0.95": 0.01, "0.999": -0.01}
    assert v.unknown == ("0.5",)
    assert {v.contrast.value(e.other) for e in v.evidence} == {"0.95", "0.999"}
    text = sentences.verdict(v)
    assert text.startswith("By measured KL against 0.9995, best is 0.999, −0.010")
    assert text.endswith("Not judged, since measured KL of it is unknown: 0.5.")
    assert "Tested" not in text
    (line,) = [line for line in headlines(a) if line.startswith("Matters")]
    assert " nats" in line
    assert "0.5 not judged: cost unknown" in line
    row = next(t for t in tables(a) if t.name == "verdicts").frame().iloc[0]
    assert (row["judged by"], row["not judged"], row.best, row.worst) == (MEASURED, "0.5", "0.999", "0.95")
    (card,) = cards(a)
    assert " nats (" in card["effect"]


def test_without_the_baselines_cost_sqnr_decides_and_the_text_says_why(tmp_path: Path) -> None:
    three_of_four(tmp_path)
    a, v = judged(tmp_path, "alpha=0.5")
    assert (v.kind, v.nats, v.unknown) == (SQNR, (), ("0.5",))
    assert len(v.evidence) == 3
    assert "SQNR decides, since the cost of 0.5, the baseline, is unknown; --baseline names another." in (
        sentences.verdict(v)
    )
    assert not any("not judged" in line for line in headlines(a))
    row = next(t for t in tables(a) if t.name == "verdicts").frame().iloc[0]
    assert (row["judged by"], row["not judged"]) == (SQNR, None)


def test_of_a_few_known_costs_no_verdict_is_made(tmp_path: Path) -> None:
    three_of_four(tmp_path)
    for alpha in (0.6, 0.7, 0.8):
        write(tmp_path / str(alpha), WORLD, alpha=alpha)
    _, v = judged(tmp_path)
    assert v.kind == SQNR
    assert "SQNR decides, since the cost of 4 of 7 values is unknown." in sentences.verdict(v)


def test_where_all_or_none_is_known_nothing_is_said_of_it(tmp_path: Path) -> None:
    for name, known in (("all", True), ("none", False)):
        for alpha, kl in ((0.9995, 0.02), (0.9, 0.01)):
            path = tmp_path / name / str(alpha)
            _ = evaluated(path, kl, 7.0, alpha=alpha) if known else write(path, WORLD, alpha=alpha)
        _, v = judged(tmp_path / name)
        assert v.unknown == ()
        assert "udged" not in sentences.verdict(v)
        assert "SQNR decides" not in sentences.verdict(v)


def test_of_too_many_pairs_those_of_known_cost_are_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.5 differs most from the baseline, and would be the one that is tested."""
    three_of_four(tmp_path)
    monkeypatch.setattr("sweep.compare.analysis.verdicts.PAIRS", 1)
    monkeypatch.setattr("sweep.compare.analysis.verdicts.EACH", 1)
    _, v = judged(tmp_path)
    assert (v.kind, v.verdict, v.unknown) == (MEASURED, MATTERS, ("0.5",))
    assert [n.value for n in v.nats] == ["0.95"]
    assert "Tested: the 1 of 2 values that differ most." in sentences.verdict(v)


def test_what_is_not_judged_moves_no_verdict(tmp_path: Path) -> None:
    """Two evaluated values with the same scales and costs, and one beside them that differs by decibels."""
    for alpha in (0.9995, 0.9996):
        evaluated(tmp_path / str(alpha), 0.02, 7.0, alpha=alpha)
    for name in ("scales", "replicates"):
        (tmp_path / "0.9996" / f"{name}.parquet").write_bytes((tmp_path / "0.9995" / f"{name}.parquet").read_bytes())
    write(tmp_path / "0.5", WORLD, alpha=0.5)
    _, v = judged(tmp_path)
    assert (v.verdict, v.unknown, v.counted) == (NOISE, ("0.5",), 0)


def test_the_cost_that_the_baseline_has_decides(tmp_path: Path) -> None:
    """Predicted loss of three values, the baseline among them, before the KL of three others on its own side."""
    for alpha, kl in ((0.5, 0.02), (0.6, 0.01), (0.7, 0.03)):
        evaluated(tmp_path / str(alpha), kl, 7.0, alpha=alpha)
    for seed, alpha in enumerate((0.9995, 0.99, 0.9)):
        lossy(write(tmp_path / str(alpha), WORLD, alpha=alpha), seed, 1e-3)
    runs = load(tmp_path)
    costs, every = Costs.of(runs), list(range(6))
    at = {cell.path.name: n for n, cell in enumerate(runs.listed)}
    assert costs.ranked(every)[0] == MEASURED
    assert costs.ranked(every, at["0.9995"]) == (PREDICTED, sorted(at[x] for x in ("0.9995", "0.99", "0.9")))
    assert costs.ranked(every, at["0.5"]) == (MEASURED, sorted(at[x] for x in ("0.5", "0.6", "0.7")))
    _, v = judged(tmp_path)
    assert (v.kind, set(v.unknown)) == (PREDICTED, {"0.5", "0.6", "0.7"})


def test_what_was_measured_on_another_text_than_the_baselines_is_not_judged(tmp_path: Path) -> None:
    three_of_four(tmp_path)
    run = json.loads((tmp_path / "0.95" / "run.json").read_text())
    run["evaluation"]["tokens"]["sha256"] = "another"
    (tmp_path / "0.95" / "run.json").write_text(json.dumps(run))
    _, v = judged(tmp_path)
    assert (v.kind, [n.value for n in v.nats], set(v.unknown)) == (MEASURED, ["0.999"], {"0.5", "0.95"})
    _, v = judged(tmp_path, "alpha=0.95")  # which is the only one on its text
    assert v.kind == SQNR


def test_a_verdict_by_cost_speaks_of_cost(tmp_path: Path) -> None:
    """Where scales move and the cost does not, the bound is that of the cost; dB may move by more than 0.1."""
    for alpha in (0.9995, 0.9):
        evaluated(tmp_path / str(alpha), 0.0001, 7.0, alpha=alpha)
    _, v = judged(tmp_path)
    assert v.nats
    assert v.verdict != UNRESOLVED
    text = sentences.verdict(v)
    assert "measured KL by less than 0.001 nats per token" in text
    assert "no site's SQNR" not in text


@pytest.mark.parametrize(
    ("measured", "predicted", "of", "kind"),
    [
        (4, 4, 4, "m"), (3, 4, 4, "p"), (2, 2, 4, "m"), (2, 1, 4, "m"), (1, 1, 2, None), (1, 0, 1, "m"),
        (0, 0, 3, None), (2, 0, 5, None), (2, 3, 5, "p"), (0, 0, 0, None),
    ],
)  # fmt: skip
def test_the_rule_by_hand(measured: int, predicted: int, of: int, kind: str | None) -> None:
    """At least half and more than one, or all; the first of equals."""
    assert ranks({"m": measured, "p": predicted}, of) == kind
