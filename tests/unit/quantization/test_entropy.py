"""The clip of least divergence against the definition, bin by bin, with fewer and wider bins."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from sweep.quantization import formats
from sweep.quantization.fold_sums import FoldSums
from sweep.quantization.formats import Format
from sweep.quantization.methods import entropy
from sweep.quantization.types import Floats
from tests.distributions import histogram
from tests.plain_sites import plain_site

BINS, STRIDE = 128, 4
FORMATS = [
    formats.named("int4"),
    formats.named("e2m1"),
    formats.named("e3m2"),
    Format("lopsided", np.array([-3.0, -1.5, 0.0, 1.0, 2.5])),
    Format("zero point", np.arange(16.0), symmetric=False),
]


@pytest.fixture(autouse=True)
def few_bins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(entropy, "BINS", BINS)
    monkeypatch.setattr(entropy, "STRIDE", STRIDE)
    entropy._cells.cache_clear()
    yield
    entropy._cells.cache_clear()


def defined(counts: Floats, format: Format, size: float, least: float, most: float) -> tuple[float, float]:
    """The answer of the definition at the head of `entropy`. counts: of bins of size / BINS from -BINS, or from 0
    where they are of magnitudes."""
    width, offset = size / BINS, 0 if format.mirrored else BINS
    candidates = [kept for kept in range(STRIDE, BINS + 1, STRIDE) if kept >= len(format.codes) / 2]
    lost, ends = [], []
    for kept in candidates:
        top = kept * size / BINS
        low, high = (-top, top) if format.symmetric else (max(least, -top), min(most, top))
        ends.append((low, high))
        start = 0 if format.mirrored else min(int(np.floor(low / width)), 0)
        stop = max(int(np.ceil(high / width)), 0)
        inside = counts[start + offset : stop + offset]
        if not inside.any():
            lost.append(np.inf)
            continue
        levels = format.place(low, high).levels
        middles = (levels[1:] + levels[:-1]) / 2
        code = np.array([np.count_nonzero(middles / width <= b + 0.5 + 1e-9) for b in range(start, stop)])
        occupied = np.flatnonzero(inside)
        p, q = inside.copy(), np.zeros_like(inside)
        p[occupied[0]] += counts[: start + offset].sum()
        p[occupied[-1]] += counts[stop + offset :].sum()
        for c in np.unique(code[occupied]):
            cell = occupied[code[occupied] == c]
            q[cell] = inside[cell].sum() / len(cell)
        p, q = p[occupied] / counts.sum(), q[occupied] / inside.sum()
        lost.append(float((p * np.log(p / q)).sum()))
    best = max(i for i, loss in enumerate(lost) if loss <= min(lost) + 1e-12)
    return ends[best]


def counted(x: Floats, mirrored: bool) -> Floats:
    size = np.abs(x).max()
    index = np.floor((np.abs(x) if mirrored else x) / (size / BINS)).astype(int)
    index = np.minimum(index, BINS - 1)
    return np.bincount(index + (0 if mirrored else BINS), minlength=BINS if mirrored else 2 * BINS).astype(float)


def drawn(seed: int, number: int = 400) -> torch.Tensor:
    random = np.random.default_rng(seed)
    x = random.standard_normal(number) * np.exp(random.standard_normal(number)) * 10.0 ** (seed % 3)
    return torch.tensor([x, np.abs(x), -np.abs(x), np.where(random.random(number) < 0.8, 0, x)][seed % 4]).bfloat16()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_it_is_the_largest_clip_of_least_divergence(format: Format) -> None:
    members = [drawn(seed, 400 if seed < 5 else 6) for seed in range(9)]
    same = [members[0], 0.5 * members[0]]
    same[1][:1] = members[0].abs().max()  # members of the same extreme share their bins
    none = [torch.zeros(0).bfloat16(), torch.zeros(5).bfloat16()]
    low, high = entropy.clip(histogram(*members, *same, *none), format)
    for k, x in enumerate([*members, *same]):
        values = x.double().numpy()
        expected = defined(counted(values, format.mirrored), format, np.abs(values).max(), values.min(), values.max())
        assert (low[k], high[k]) == pytest.approx(expected, rel=1e-12), k
    assert np.isnan([low[-2], high[-2]]).all()
    assert (low[-1], high[-1]) == (0, 0)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_values_of_float32_are_spread_over_their_bins(format: Format) -> None:
    for seed in range(4):
        x = drawn(seed).float() * 1.001
        site = plain_site(x.view(4, 1, 100, 1))
        observed = site.replicates.observed
        low, high = entropy.clip(observed, format)
        for k, size in enumerate(observed.absmax):
            edges = np.arange(0 if format.mirrored else -BINS, BINS) * (size / BINS)
            spread: FoldSums = observed.magnitudes if format.mirrored else observed
            counts = np.diff(np.append(spread.under(edges)[k], observed.n[k])).astype(float)
            expected = defined(counts, format, size, observed.min[k], observed.max[k])
            assert (low[k], high[k]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_one_value_is_clipped_at_itself(format: Format) -> None:
    low, high = entropy.clip(histogram(torch.tensor([3.0]).bfloat16()), format)
    assert (low, high) == ((-3, 3) if format.symmetric else (3, 3))


def test_how_many_bins_are_kept() -> None:
    """From half as many as there are codes, rounded up to the stride, to all."""
    for format, fewest in ((FORMATS[0], 8), (FORMATS[2], 32), (FORMATS[3], 4), (FORMATS[4], 8)):
        assert entropy.candidates(format).tolist() == list(range(fewest, BINS + 1, STRIDE))


def test_the_divergence_by_hand() -> None:
    """Bins of 1, 0, 2 and 3 values, of which the first three are kept with one code for the first two bins and one for
    the third. P: 1, 0, 5 of 6; Q: 1, 0, 2 of 3."""
    bins = entropy.Binned.of(np.array([[1.0], [0.0], [2.0], [3.0]]))
    expected = 1 / 6 * np.log((1 / 6) / (1 / 3)) + 5 / 6 * np.log((5 / 6) / (2 / 3))
    assert entropy.divergence(bins, np.array([[0, 2, 3]])) == pytest.approx(np.array([[expected]]))
    # one code for all: Q is even over the two that are occupied
    expected = 1 / 6 * np.log((1 / 6) / (1 / 2)) + 5 / 6 * np.log((5 / 6) / (1 / 2))
    assert entropy.divergence(bins, np.array([[0, 3]])) == pytest.approx(np.array([[expected]]))
    assert entropy.divergence(bins, np.array([[1, 2]])) == np.inf  # nothing is kept
    # the second to the third bin: one value lies below, three above, all are added to the one bin that is occupied
    assert entropy.divergence(bins, np.array([[1, 3]])) == pytest.approx(np.zeros((1, 1)))
    assert entropy.divergence(bins, np.array([[0, 1]])) == pytest.approx(np.zeros((1, 1)))  # one value is kept
    ends = entropy.Binned.of(np.array([[2.0], [0.0], [3.0]]))
    assert entropy.divergence(ends, np.array([[1, 3]])) == pytest.approx(np.zeros((1, 1)))  # all are added to the last
    many = np.repeat(np.array([[0, 2, 3], [0, 1, 3]]), 20, 0)  # more than are looked at at once
    assert entropy.divergence(bins, many).ravel() == pytest.approx(
        np.full(40, 1 / 6 * np.log(1 / 2) + 5 / 6 * np.log(5 / 4))
    )


def test_its_errors_are_those_of_one_fold_and_more() -> None:
    site = plain_site(torch.ones(3, 1, 2, 1))
    assert entropy.rate(site, np.ones(3, bool), None) == 2
