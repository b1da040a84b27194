"""Which cells are ranked against one another, and under which names."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from sweep.compare.analysis.contexts import Context, contexts, short
from sweep.runs.compared import Cell
from tests.unit.compare.test_contrasts_by_hand import m, p


def of(*cells: Cell) -> list[Context]:
    return contexts(SimpleNamespace(listed=list(cells)))  # type: ignore[arg-type]


def test_settings_of_each_format_and_granularity() -> None:
    assert of(p(0.99), p(0.99, format="int4"), m(), p(0.9, granularity="group")) == [
        Context("tiny · int8 · tensor", (0, 2), ("percentile 0.99", "minmax")),
        Context("tiny · int4 · tensor", (1,), ("percentile 0.99",)),
        Context("tiny · int8 · group", (3,), ("percentile 0.9",)),
    ]


def test_formats_where_nothing_else_varies() -> None:
    assert of(p(0.99), p(0.99, format="int4"), m(granularity="group")) == [
        Context("tiny · tensor", (0, 1), ("percentile 0.99 · int8", "percentile 0.99 · int4")),
        Context("tiny · group", (2,), ("minmax",)),
    ]


def test_granularities_where_formats_do_not_vary_either() -> None:
    assert of(p(0.99), p(0.99, granularity="group"), m(granularity="channel")) == [
        Context("tiny", (0, 1, 2), ("percentile 0.99 · tensor", "percentile 0.99 · group", "minmax · channel"))
    ]
    assert of(p(0.99), p(0.99, granularity="group", format="int4")) == [
        Context("tiny", (0, 1), ("percentile 0.99 · int8 · tensor", "percentile 0.99 · int4 · group"))
    ]
    assert of(p(0.99)) == [Context("tiny", (0,), ("percentile 0.99",))]


def test_models_and_calibrations_stay_apart() -> None:
    """Where a model has several, their data are named."""
    cells = (p(0.99), p(0.9, tokens="bbbbbbbb"), p(0.9, model="2.7b", identity="n"), p(0.9), p(0.99, tokens="bbbbbbbb"))
    assert of(*cells) == [
        Context("tiny · pile 512 x 128 aaaaaa · int8 · tensor", (0, 3), ("percentile 0.99", "percentile 0.9")),
        Context("tiny · pile 512 x 128 bbbbbb · int8 · tensor", (1, 4), ("percentile 0.9", "percentile 0.99")),
        Context("2.7b", (2,), ("percentile 0.9",)),
    ]


def test_calibrations_of_one_text_are_told_apart() -> None:
    """By dtype or weights: two contexts of one name would be taken for one another."""
    cells = (p(0.99), p(0.9), p(0.99, dtype="bfloat16"), p(0.9, dtype="bfloat16"))
    assert [(c.text, c.cells) for c in of(*cells)] == [
        ("tiny · float32 · int8 · tensor", (0, 1)), ("tiny · bfloat16 · int8 · tensor", (2, 3)),
    ]  # fmt: skip
    trained = [p(alpha, identity=f"sha256:{weights}") for weights in ("aaaaaaab", "cccccccd") for alpha in (0.9, 0.99)]
    names = [c.text for c in of(*trained)]
    assert names == [f"tiny · weights {w} · int8 · tensor" for w in ("aaaaaa", "cccccc")]
    both = [c.text for c in of(*cells, *(replace(c, tokens="bbbbbbbb") for c in cells))]
    assert both[3] == "tiny · pile 512 x 128 bbbbbb bfloat16 · int8 · tensor"
    assert len(set(both)) == 4


def test_of_repetitions_one_with_a_known_cost_counts_else_the_latest() -> None:
    cells = [p(0.99, finished="2"), p(0.99, finished="1"), p(0.9)]
    assert of(*cells)[0].cells == (0, 2)
    cells[1] = replace(cells[1], evaluation={})
    assert of(*cells)[0].cells == (1, 2)


def test_what_all_share_is_not_said_again() -> None:
    assert short(["a · int8 · x", "a · int4 · x", "a · int4 · y"]) == ["int8 · x", "int4 · x", "int4 · y"]
    assert short(["a · int8 · x", "a · int4 · x"]) == ["int8", "int4"]
    assert short(["a · b"]) == ["a · b"]
    assert short(["a · pile 512 x 128", "a · pile 16 x 128"]) == ["pile 512 x 128", "pile 16 x 128"]
    assert short([]) == []
    assert short(["a · b", "a"]) == ["a · b", "a"]
