"""Tables on a terminal too narrow for them: whole, in parts or row by row."""

from __future__ import annotations

import io

import pytest
from rich.table import Table

from sweep.core import fitted
from sweep.core.console import Console

HEADS = ("setting", "cost", "± cost", "scale\nmin", "p")
ROWS = [("percentile 0.99999", "0.0123", "0.0004", "0.5", "0.01"), ("minmax", "", "0.0009", "0.6", "")]


def table(*heads: str) -> Table:
    made = Table(title="What it costs", title_justify="left")
    for head in heads:
        made.add_column(head, justify="left" if head == "setting" else "right", no_wrap=True)
    for row in ROWS:
        made.add_row(*(row[HEADS.index(head)] for head in heads))
    return made


def shown(width: int, keys: int = 1, heads: tuple[str, ...] = HEADS) -> list[str]:
    out = io.StringIO()
    fitted.show(table(*heads), Console(file=out, width=width), keys)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", range(12, 90))
def test_at_every_width_every_number_is_there_and_none_is_cut(width: int) -> None:
    lines = shown(width)
    assert max(map(len, lines)) <= width
    words = "\n".join(lines).split()
    assert "…" not in "".join(lines)
    for row in ROWS:
        for value in row[1:]:
            assert not value or value in words


def test_what_fits_is_one_table_with_its_title() -> None:
    plain = io.StringIO()
    Console(file=plain, width=80).print(table(*HEADS))
    assert shown(80) == plain.getvalue().splitlines()


def test_a_part_has_the_name_of_the_row_and_keeps_errors_beside_their_values() -> None:
    lines = shown(46)
    heads = [line for line in lines if "setting" in line]
    assert len(heads) == 2
    assert [("cost" in head, "± cost" in head) for head in heads] == [(True, True), (False, False)]
    assert sum("percentile 0.99999" in line for line in lines) == 2
    assert lines[0] == "What it costs"


def test_without_room_for_parts_a_row_is_a_block() -> None:
    assert shown(30) == [
        "What it costs",
        "percentile 0.99999",
        "  cost       0.0123 ± 0.0004",
        "  scale min  0.5",
        "  p          0.01",
        "minmax",
        "  cost       ± 0.0009",
        "  scale min  0.6",
    ]


def test_brackets_of_a_heading_are_no_markup() -> None:
    made = Table()
    for head in ("cell", r"\[a] cost", "more"):
        made.add_column(head)
    made.add_row("percentile", "0.5", "1")
    out = io.StringIO()
    fitted.show(made, Console(file=out, width=18))
    assert out.getvalue().splitlines() == ["percentile", "  [a] cost  0.5", "  more      1"]


def test_of_two_names_the_first_goes_where_both_take_half() -> None:
    lines = shown(45, keys=2, heads=("p", "setting", "scale\nmin", "cost"))
    heads = [line.replace("┃", " ").split() for line in lines if "setting" in line]
    assert [head[0] for head in heads] == ["setting", "setting"]
    assert "p" in heads[0]
    assert shown(30, keys=2, heads=("scale\nmin", "setting", "cost"))[1] == "0.5  percentile 0.99999"


def test_parts_tell_their_rows_apart() -> None:
    """Two contexts with a layer 0 each: without its context no part would say whose it is."""
    made = Table(title="Layers")
    for head in ("context", "layer", "cost", "loss"):
        made.add_column(head, no_wrap=True)
    for context in ("tiny · int8 · tensor", "tiny · int4 · tensor"):
        made.add_row(context, "0", "0.0123", "0.0004")
    out = io.StringIO()
    fitted.show(made, Console(file=out, width=36), 2)
    lines = out.getvalue().splitlines()
    assert lines[1:4] == ["tiny · int8 · tensor  0", "  cost  0.0123", "  loss  0.0004"]
    assert lines[4] == "tiny · int4 · tensor  0"
