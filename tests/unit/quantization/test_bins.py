"""Bins by hand: their edges, names and unions."""

from __future__ import annotations

import numpy as np
import pytest

from sweep.quantization.bins import BFLOAT16, FLOAT16, FLOAT32, FLOAT32_FOLDS, Layout, layout, union


def test_a_bin_of_16_bits_is_one_value() -> None:
    assert BFLOAT16.exact
    assert FLOAT16.exact
    assert Layout("bfloat16").edges[[0, 0x3F80, 0x3F81]].tolist() == [0.0, 1.0, 1.0 + 2**-7]
    assert Layout("float16").edges[[0, 1, 0x3C00, 0x3C01, 0x7BFF]].tolist() == [
        0.0,
        2.0**-24,
        1.0,
        1.0 + 2**-10,
        65504.0,
    ]
    assert (BFLOAT16.top, FLOAT16.top, FLOAT32.top) == (0x7F80, 0x7C00, 0x7C00)


def test_a_bin_of_float32_is_what_rounds_to_a_float16() -> None:
    """Half-way to the neighbours of 1, of the smallest and of the largest, and nothing but infinity beyond."""
    edges = Layout("float32", width=1).edges  # made anew: the constant keeps its own
    assert not FLOAT32.exact
    assert edges[[0, 1, 2]].tolist() == [0.0, 2.0**-25, 1.5 * 2.0**-24]
    assert edges[[0x3C00, 0x3C01]].tolist() == [1 - 2.0**-12, 1 + 2.0**-11]
    assert edges[0x7C00] == 65520.0
    assert np.isinf(edges[0x7C01:]).all()
    assert len(edges) == 32769
    assert (np.diff(edges[:0x7C01]) > 0).all()


def test_shifted_bins_are_those_of_other_magnitudes() -> None:
    times = FLOAT32.times(3)
    assert Layout("float32", width=1, shift=3).edges[0x3C01] == (1 + 2.0**-11) / 8
    assert FLOAT32.times(0) is FLOAT32
    assert times.times(0) == FLOAT32


def test_folds_are_kept_in_bins_of_four() -> None:
    assert FLOAT32.of_folds is FLOAT32_FOLDS
    assert FLOAT32.times(5).of_folds == FLOAT32_FOLDS.times(5)
    assert FLOAT32_FOLDS.of_folds is FLOAT32_FOLDS
    assert BFLOAT16.of_folds is BFLOAT16


@pytest.fixture(autouse=True)
def no_layout_is_known_yet() -> None:
    layout.cache_clear()


NAMES = {
    "bfloat16": BFLOAT16,
    "float16": FLOAT16,
    "float32 rounded to float16": FLOAT32,
    "float32 rounded to float16, 4 in one": FLOAT32_FOLDS,
    "float32 rounded to float16, times 2^-7": FLOAT32.times(-7),
    "float32 rounded to float16, 4 in one, times 2^12": FLOAT32_FOLDS.times(12),
}


@pytest.mark.parametrize(("name", "known"), NAMES.items())
def test_names_in_files(name: str, known: Layout) -> None:
    assert str(known) == name
    assert layout(name) == known


def test_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^unknown histogram layout 'float8'$"):
        layout("float8")


def test_union_says_where_each_parts_bins_stand() -> None:
    parts = [np.array(bins, np.uint16) for bins in ([0, 7], [], [3, 7, 65_535])]
    bins, places = union(parts)
    assert bins.tolist() == [0, 3, 7, 65_535]
    assert bins.dtype == np.uint16
    assert [place.tolist() for place in places] == [[0, 2], [], [1, 2, 3]]
    assert np.arange(4)[places[2]].tolist() == [1, 2, 3]  # they are indices
