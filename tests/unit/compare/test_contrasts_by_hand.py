"""Which cells answer which question, in which order, against which baseline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sweep.compare.analysis.contrasts import Contrast, contrasts, repeats
from sweep.core.errors import UsageError
from sweep.runs.compared import Cell

BASE = Cell(
    path=Path("runs/s/c"), name="c", sweep="s", model="tiny", method="percentile", alpha=0.9995, asked_alpha=0.9995,
    format="int8", granularity="tensor", data="pile", key="k", tokens="aaaaaaaa", identity="m", weights="trained",
    dtype="float32", sizes="512 x 128", folds=8, finished="2026-01-01",
)  # fmt: skip


def p(alpha: float, **more: object) -> Cell:
    return replace(BASE, alpha=alpha, asked_alpha=alpha, **more)  # type: ignore[arg-type]


def m(asked: float | None = 0.9995, method: str = "minmax", **more: object) -> Cell:
    return replace(BASE, method=method, alpha=None, asked_alpha=asked, **more)  # type: ignore[arg-type]


def test_alphas_are_in_order_against_the_usual_one() -> None:
    cells = [p(0.9999), p(0.9), p(0.9995), p(0.99)]
    assert contrasts(cells) == [
        Contrast("alpha", "tiny · percentile · int8 · tensor", ("0.9", "0.99", "0.9995", "0.9999"), (1, 3, 2, 0), 2)
    ]
    (one,) = contrasts(cells)
    assert one.pairs == [(2, 1), (2, 3), (2, 0)]
    assert [one.value(n) for n in (0, 3)] == ["0.9999", "0.99"]


def test_without_the_usual_alpha_the_nearest_is_the_baseline() -> None:
    assert contrasts([p(0.9), p(0.999), p(0.99999)])[0].baseline == 2  # 0.0005 below or 0.00049 above
    assert contrasts([p(0.9), p(0.999), p(0.99)])[0].baseline == 2
    assert contrasts([p(0.9992), p(0.9999)])[0].baseline == 0
    assert contrasts([p(0.99), p(0.9)])[0].baseline == 1
    assert contrasts([p(1), p(0.9)])[0].values == ("0.9", "1")


def test_an_alpha_to_ten_digits() -> None:
    assert contrasts([p(0.12345678912), p(0.5)])[0].values == ("0.1234567891", "0.5")


def test_methods_are_compared_with_every_alpha_they_have() -> None:
    """minmax is the baseline wherever it stands; alphas of one method alone are no question of methods."""
    cells = [p(0.99), m(0.9995), p(0.9995), m(method="entropy")]
    question = Contrast(
        "method", "tiny · int8 · tensor", ("entropy", "minmax", "percentile 0.99", "percentile 0.9995"), (3, 1, 0, 2), 1
    )
    asked = contrasts(cells)
    assert [q for q in asked if q.knob == "method"] == [question]
    assert [q.knob for q in asked] == ["alpha", "method"]
    assert [q.knob for q in contrasts([p(0.99), p(0.9995)])] == ["alpha"]
    (plain,) = contrasts([m(method="mse"), m(method="entropy")])
    assert (plain.values, plain.baseline) == (("entropy", "mse"), 0)  # where there is no minmax, the first
    two = contrasts([p(0.99), m(None)])  # one alpha of each method is no question of alphas
    assert [(q.knob, q.cells) for q in two] == [("method", (1, 0))]


def test_a_method_without_an_alpha_was_asked_for_one() -> None:
    """It is a question whether alpha matters to minmax. A cell that was asked for none answers none."""
    cells = [m(0.9), m(0.9995), m(None)]
    assert contrasts(cells) == [Contrast("alpha", "tiny · minmax · int8 · tensor", ("0.9", "0.9995"), (0, 1), 1)]
    assert contrasts([m(None), m(0.9)]) == []
    assert [q.cells for q in contrasts([m(None), *cells[:2]])] == [(1, 2)]


def test_formats_and_granularities() -> None:
    cells = [
        p(0.99, format="fp8"), p(0.99), p(0.99, format="int4"), p(0.99, granularity="group4x4"),
        p(0.99, granularity="channel"),
    ]  # fmt: skip
    assert contrasts(cells) == [
        Contrast("format", "tiny · percentile 0.99 · tensor", ("fp8", "int4", "int8"), (0, 2, 1), 2),
        Contrast("granularity", "tiny · percentile 0.99 · int8", ("channel", "group4x4", "tensor"), (4, 3, 1), 2),
    ]
    assert contrasts([p(0.99, format="fp8"), p(0.99, format="int4")])[0].baseline == 0


def test_data_that_differ() -> None:
    """Of one model on two texts; the context of the other questions says of which."""
    cells = [
        p(0.99), p(0.99, data="code", tokens="bbbbbbbb", identity="m"), p(0.9), p(0.99, sizes="16 x 128"),
    ]  # fmt: skip
    assert contrasts(cells) == [
        Contrast("alpha", "tiny · pile 512 x 128 · percentile · int8 · tensor", ("0.9", "0.99"), (2, 0), 0 + 1),
        Contrast(
            "data",
            "tiny · percentile 0.99 · int8 · tensor",
            ("code 512 x 128 bbbbbb", "pile 16 x 128 aaaaaa", "pile 512 x 128 aaaaaa"),
            (1, 3, 0),
            0,
        ),
    ]
    assert contrasts([p(0.99), p(0.9, tokens="b")]) == []
    assert contrasts(cells[:3])[0].context == "tiny · pile 512 x 128 · percentile · int8 · tensor"


def test_questions_of_several_calibrations_are_told_apart() -> None:
    cells = [p(alpha, tokens=tokens, dtype=dtype)
             for tokens in ("aaaaaaaa", "bbbbbbbb") for dtype in ("float32", "bfloat16")
             for alpha in (0.9, 0.99)]  # fmt: skip
    assert [c.context for c in contrasts(cells) if c.knob == "alpha"] == [
        f"tiny · pile 512 x 128 {text} · {dtype} · percentile · int8 · tensor"
        for text in ("aaaaaa", "bbbbbb") for dtype in ("float32", "bfloat16")
    ]  # fmt: skip
    assert {c.context for c in contrasts(cells) if c.knob == "data"} == {
        f"tiny · {dtype} · percentile {alpha} · int8 · tensor" for dtype in ("float32", "bfloat16")
        for alpha in (0.9, 0.99)
    }  # fmt: skip


def test_what_is_no_knob_keeps_cells_apart() -> None:
    for other in ({"model": "2.7b"}, {"identity": "n"}, {"dtype": "bfloat16"}):
        assert contrasts([p(0.99), p(0.9, **other)]) == []
        assert contrasts([p(0.99), p(0.99, **other)]) == []
    both = contrasts([p(0.99), p(0.99, model="2.7b"), p(0.9), p(0.9, model="2.7b")])
    assert [(q.context.split(" · ")[0], q.cells) for q in both] == [("tiny", (2, 0)), ("2.7b", (3, 1))]


def test_questions_are_in_the_order_that_they_are_asked_in() -> None:
    cells = [
        p(0.99), p(0.9), m(0.99), p(0.99, format="int4"), p(0.99, granularity="group"), p(0.99, tokens="b"),
    ]  # fmt: skip
    assert [q.knob for q in contrasts(cells)] == ["alpha", "method", "format", "granularity", "data"]


def test_of_repetitions_one_with_a_known_cost_counts_else_the_latest() -> None:
    cells = [p(0.99, finished="1"), p(0.99, finished="3"), p(0.99, finished="2"), p(0.9, finished="1")]
    assert contrasts(cells)[0].cells == (3, 1)
    cells[0] = replace(cells[0], loss={})
    assert contrasts(cells)[0].cells == (3, 0)
    cells[2] = replace(cells[2], evaluation={})
    assert contrasts(cells)[0].cells == (3, 2)
    assert contrasts([p(0.99), p(0.99), p(0.9)])[0].cells == (2, 0)
    assert repeats(cells) == [[0, 1, 2]]
    assert repeats([p(0.99), p(0.9), m(0.9), m(0.99), p(0.9), m(0.9), p(0.9, format="int4")]) == [[1, 4], [2, 5]]


@pytest.mark.parametrize(
    ("text", "baseline"),
    [
        (None, 2), ("alpha=0.9", 0), ("alpha=0.90", 0), ("method=percentile,alpha=0.99", 1), ("method=PERCENTILE", 0),
        ("runs/s/c1", 1), ("runs/s/c1/", 1), ("name of 1X", 1), ("s/c", 0), ("format=int8,nonsense", 0), ("s/a=2", 2),
    ],
)  # fmt: skip
def test_a_baseline_of_ones_own(
    text: str | None, baseline: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [
        replace(p(alpha), name=f"name of {n}X", path=Path(f"runs/s/c{n}" if n < 2 else f"runs/s/a={n}"))
        for n, alpha in enumerate((0.9, 0.99, 0.9995))
    ]
    if text == "s/a=2":  # a directory that is there is one, whatever signs its name has
        monkeypatch.chdir(tmp_path)
        Path(text).mkdir(parents=True)
    assert contrasts(cells, text)[0].baseline == baseline


def test_a_baseline_that_no_cell_is() -> None:
    cells = [p(0.9), p(0.99)]
    with pytest.raises(
        UsageError, match=r"^baseline=alpha=0.5: no cell is that; for example baseline=alpha=0.9995 or "
    ):
        contrasts(cells, "alpha=0.5")
    with pytest.raises(UsageError, match=r"^baseline=nowhere: no cell is that"):
        contrasts(cells, "nowhere")
    with pytest.raises(UsageError, match=r"^baseline=alpha=0.9,method=minmax: no cell"):
        contrasts(cells, "alpha=0.9,method=minmax")
    with pytest.raises(
        UsageError, match=r"^baseline: colour, size is no knob; allowed: alpha, method, format, granularity, data$"
    ):
        contrasts(cells, "size=big,alpha=0.9,colour=red")
    with pytest.raises(UsageError, match=r"^baseline: alpha=many is no number; for example alpha=0.9995$"):
        contrasts(cells, "alpha=many")
    assert contrasts([p(0.9), p(0.9, model="a=b"), p(0.8, model="a=b")], "model=a=b,alpha=0.9")[0].baseline == 1
    for text in ("model=TINY", "format=int8", "granularity=Tensor", "data=pile", "alpha=0.99"):
        assert len(contrasts(cells, text)) == 1
