"""Perplexity against the baseline's, by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from sweep.compare.analysis import perplexity
from sweep.compare.analysis.contrasts import Contrast
from sweep.compare.analysis.perplexity import FEWEST, Perplexity, paired, perplexities
from sweep.compare.analysis.significance import FAMILY
from sweep.evaluation.scores import Scores

QUESTION = Contrast("alpha", "here", ("0.9", "0.99", "0.999"), (0, 1, 2), 1)


def cells(*evaluations: dict[str, Any] | None) -> Any:
    return SimpleNamespace(
        listed=[SimpleNamespace(evaluation=e, path=Path(f"nowhere/{n}")) for n, e in enumerate(evaluations)]
    )


def read(value: float | None, se: float | None = None, text: str = "t", **more: Any) -> dict[str, Any]:
    return {"perplexity": value, "perplexity_se": se, "tokens": {"sha256": text}, **more}


def test_without_scores_both_errors_count() -> None:
    rows = perplexity.perplexity(cells(read(9.0, 0.3, kl=0.1), read(8.0, 0.4), read(8.5)), QUESTION)
    assert [(p.value, p.perplexity, p.difference, p.kl, p.texts) for p in rows] == [
        ("0.9", 9.0, 1.0, 0.1, None),
        ("0.99", 8.0, 0.0, None, None),
        ("0.999", 8.5, 0.5, None, None),
    ]
    assert [p.se for p in rows] == pytest.approx([0.5, np.hypot(0.4, 0.4), 0.4])


def test_an_error_that_is_not_known_adds_nothing() -> None:
    rows = perplexity.perplexity(cells(read(9.0, 0.3), read(8.0), read(8.5)), QUESTION)
    assert [p.se for p in rows] == [0.3, 0.0, 0.0]


def test_other_texts_are_not_compared() -> None:
    rows = perplexity.perplexity(cells(read(9.0, text="other"), read(8.0), read(8.5)), QUESTION)
    assert [p.value for p in rows] == ["0.99", "0.999"]
    for evaluations in (
        (read(9.0), None, read(8.5)),  # no baseline
        (read(9.0), read(None), read(8.5)),
        (None, read(8.0), read(None)),  # nothing beside it
        (read(9.0, text="a"), read(8.0), read(8.0, text="b")),
    ):
        assert perplexity.perplexity(cells(*evaluations), QUESTION) == ()
    assert [
        p.value for p in perplexity.perplexity(cells({"perplexity": 9.0}, {"perplexity": 8.0}, None), QUESTION)
    ] == [
        "0.9",
        "0.99",
    ]


def test_errors_are_text_by_text_where_scores_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def known(cell: Path, base: Path) -> tuple[float, int] | None:
        asked.append((cell.name, base.name))
        return (0.01, 30) if cell.name == "0" else None

    monkeypatch.setattr(perplexity, "paired", known)
    rows = perplexity.perplexity(cells(read(9.0, 0.3), read(8.0, 0.4), read(8.5, 0.3)), QUESTION)
    assert asked == [("0", "1"), ("1", "1"), ("2", "1")]
    assert [(p.se, p.texts) for p in rows] == [(0.01, 30), (pytest.approx(np.hypot(0.4, 0.4)), None), (0.5, None)]


def test_p_is_corrected_over_all_questions() -> None:
    """Differences of 1 and 0.5 with errors of 0.5 and 0.4, seven degrees of freedom as the number of texts is unknown;
    the baseline's own difference of 0 is no test."""
    runs = cells(read(9.0, 0.3), read(8.0, 0.4), read(8.5))
    other = Contrast("method", "there", ("a", "b"), (1, 1), 0)
    first, none, second = perplexities(runs, [QUESTION, Contrast("data", "", ("c",), (0,), 0), other])
    raw = [2 * stats.t.sf(t, FEWEST - 1) for t in (1 / 0.5, 0.5 / 0.4)]
    assert [p.p for p in first] == pytest.approx([2 * raw[0], np.nan, max(2 * raw[0], raw[1])], nan_ok=True)
    assert none == ()
    assert len(second) == 2
    assert not any(p.beyond for p in (*first, *second))
    assert perplexities(runs, []) == []


def test_beyond_is_at_the_level_of_the_family() -> None:
    assert Perplexity("0.9", 9.0, 1.0, 0.1, None, 30, FAMILY).beyond
    assert not Perplexity("0.9", 9.0, 1.0, 0.1, None, 30, FAMILY * 1.001).beyond
    assert not Perplexity("0.9", 9.0, 1.0, 0.1, None, 30).beyond


def scored(directory: Path, nll: list[float], tokens: int = 100) -> Path:
    """Texts of 100 tokens with these summed losses, and rows of one site alone, which are not to be read."""
    directory.mkdir()
    n = len(nll)
    each = np.full(n, tokens)
    base = np.full(n, 200.0)
    tables = [
        Scores(each, each, np.array(losses), base, np.ones(n), each)
        .table()
        .add_column(0, "quantized", pa.array([which] * n))
        for which, losses in (("all", nll), ("x_conv_out", [0.0] * n))
    ]
    pq.write_table(pa.concat_tables(tables), directory / "evaluation.parquet")
    return directory


def test_paired_scores(tmp_path: Path) -> None:
    """Every text costs 0.01 more per token: the difference has no error, however much texts differ."""
    base = scored(tmp_path / "base", [150.0, 250.0, 190.0])
    same = scored(tmp_path / "same", [151.0, 251.0, 191.0])
    found = paired(same, base)
    assert found is not None
    assert found[1] == 3
    assert found[0] < 0.15  # e^2 * 0.01 * what texts differ; unpaired it would be e^2 * 0.3 / sqrt(3) = 1.2
    found = paired(scored(tmp_path / "wild", [100.0, 260.0, 230.0]), base)
    assert found is not None
    assert found[0] > 0.5
    assert paired(scored(tmp_path / "one", [150.0]), scored(tmp_path / "other", [151.0])) is None  # one text, no error
    assert paired(tmp_path / "nothing", base) is None
    assert paired(base, tmp_path / "nothing") is None
    assert paired(scored(tmp_path / "fewer", [150.0, 250.0]), base) is None
