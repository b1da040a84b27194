"""Every method against an oracle that knows the values, or that tries everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sweep.quantization import formats
from sweep.quantization.fold_sums import FoldSums
from sweep.quantization.formats import Format, named
from sweep.quantization.methods import entropy, mse
from sweep.quantization.methods import registry as scales
from sweep.quantization.methods.method import Method, Reads
from sweep.quantization.methods.registry import METHODS
from sweep.quantization.metrics import measure
from sweep.quantization.prefix_sums import signed
from tests.distributions import NAMES, histogram, tensor

FORMATS = list(formats.FORMATS.values())
POOLED = [m for m in METHODS.values() if m.reads is Reads.HISTOGRAM]  # what a histogram tells; the others: test_ema.py
CANDIDATES = 20_000


def read(x: torch.Tensor, method: Method, format: str = "int8", alpha: float | None = 0.999) -> scales.Clips:
    return scales.clip(histogram(x), method, alpha, formats.named(format))


# --- looked up ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_minmax_is_exact(name: str) -> None:
    x = tensor(name)
    assert read(x, METHODS["minmax"]).high[0] == float(x.abs().max())
    asymmetric = read(x, METHODS["minmax"], "int8_asym")
    assert (asymmetric.low[0], asymmetric.high[0]) == (float(x.min()), float(x.max()))


@pytest.mark.parametrize("alpha", [0.5, 0.9, 0.999, 0.99999, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_percentile_of_16_bit_values_is_an_order_statistic(name: str, alpha: float) -> None:
    x = tensor(name, torch.bfloat16)
    values = x.double().numpy()
    assert read(x, METHODS["percentile"], alpha=alpha).high[0] == np.quantile(np.abs(values), alpha, method="higher")
    both = read(x, METHODS["percentile"], "int8_asym", alpha)
    ends = np.quantile(values, 1 - alpha, method="higher"), np.quantile(values, alpha, method="higher")
    assert (both.low[0], both.high[0]) == (min(ends), max(ends))


# --- searched: mse --------------------------------------------------------------------------------


def loss_db(histogram: FoldSums, format: Format, low: float, high: float, reference: float) -> float:
    """How far the optimum is from the reference, an error sum; what is below -110 dB counts as nothing."""
    got = float(measure(histogram, format.place(low, high)).mse[0] * histogram.n[0])
    floor = 1e-11 * float(signed(histogram).second[0])
    return float(10 * np.log10((got + floor) / (max(reference, 0.0) + floor)))


def brute(histogram: FoldSums, format: Format) -> float:
    """Least error sum over 20,000 clips: evenly spaced magnitudes, or 100 x 200 pairs of ends."""
    if format.symmetric:
        high = np.arange(1, CANDIDATES + 1) / CANDIDATES * histogram.absmax[0]
        ends = np.stack([-high, high], 1)
    else:
        low, high = min(histogram.min[0], 0.0), max(histogram.max[0], 0.0)
        pairs = (CANDIDATES, 1) if high == 0 else (1, CANDIDATES) if low == 0 else (100, 200)
        lows, highs = (np.arange(1, n + 1) / n * end for n, end in zip(pairs, (low, high), strict=True))
        ends = np.stack(np.meshgrid(lows, highs), -1).reshape(-1, 2)
    order = np.argsort(histogram.values)
    x, counts = histogram.values[order], histogram.counts[0, order].astype(np.float64)
    below = [np.concatenate([[0.0], np.cumsum(counts * x**power)]) for power in range(3)]
    least = np.inf
    for low, high in np.array_split(ends.T[..., None], 50, axis=1):  # [candidates, 1] each
        scale = high / format.largest if format.symmetric else (high - low) / format.largest
        zero = 0.0 if format.symmetric else np.rint(-low / scale)
        level = (format.codes - zero) * scale  # [candidates, codes]
        inner = np.searchsorted(x, (level[:, 1:] + level[:, :-1]) / 2)
        cut = np.concatenate([0 * inner[:, :1], inner, np.full_like(inner[:, :1], len(x))], 1)
        zeroth, first, second = (np.diff(moment[cut]) for moment in below)
        least = min(least, float((second - 2 * level * first + level**2 * zeroth).sum(1).min()))
    return least


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_mse_is_within_a_hundredth_of_a_decibel_of_brute_force(name: str, format: Format, dtype: torch.dtype) -> None:
    observed = histogram(tensor(name, dtype))
    low, high = mse.clip(observed, format)
    assert loss_db(observed, format, low[0], high[0], brute(observed, format)) < 0.01


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_mse_costs_no_more_than_any_other_method(name: str, format: Format) -> None:
    observed = histogram(tensor(name, torch.bfloat16))
    low, high = mse.clip(observed, format)
    for method in (METHODS["minmax"], METHODS["entropy"], *[METHODS["percentile"]] * 5):
        for alpha in (0.9, 0.999, 0.9999):
            other = scales.clip(observed, method, alpha, format)
            cost = float(measure(observed, format.place(other.low[0], other.high[0])).mse[0] * observed.n[0])
            assert loss_db(observed, format, low[0], high[0], cost) < 0.01


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_members_of_a_stack_have_their_own_optimum(format: Format) -> None:
    parts = [tensor("gaussian"), 10 * tensor("student"), tensor("silu"), torch.zeros(0), torch.zeros(5)]
    low, high = mse.clip(histogram(*parts), format)
    for k, part in enumerate(parts[:3]):
        alone = histogram(part)
        reference = mse.clip(alone, format)
        cost = measure(alone, format.place(reference[0][0], reference[1][0])).mse[0] * len(part)
        assert abs(loss_db(alone, format, low[k], high[k], cost)) < 0.01
    assert np.isnan([low[3], high[3]]).all()
    assert (low[4], high[4]) == (0, 0)


def test_mse_of_few_known_values() -> None:
    """int4 of {1, 0.4}: a scale of 0.2 would lose nothing, but its clip of 1.4 is beyond the largest value."""
    low, high = mse.clip(histogram(torch.tensor([1.0, 0.5, -0.25], dtype=torch.float16)), formats.named("int4"))
    assert high[0] == pytest.approx(0.25 * 3.5, rel=0.15)
    assert -low[0] == high[0] <= 1


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_equal_values_are_clipped_at_themselves(format: Format) -> None:
    for method in POOLED:
        clips = scales.clip(histogram(torch.full((100,), 0.7)), method, 0.99, format)
        assert clips.high[0] == pytest.approx(0.7, rel=2**-10), method


# --- searched: entropy ----------------------------------------------------------------------------


def divergences(values: np.ndarray, format: Format) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """The definition in `sweep.quantization.methods.entropy`, bin by bin."""
    size = np.abs(values).max()
    width = size / 2048
    signed = not format.symmetric
    x = values if signed else np.abs(values)
    index = np.minimum(np.floor(x * 2048 / size).astype(int), 2047)
    lost, ends = [], []
    for kept in entropy.candidates(format):
        top = kept / 2048 * size
        low, high = (max(x.min(), -top), min(x.max(), top)) if signed else (-top, top)
        quantizer = format.place(low, high)
        start = min(int(np.floor(low / width)), 0) if signed else 0
        stop = max(int(np.ceil(high / width)), 0) if signed else kept
        bins = np.arange(start, stop)
        inside = (index >= start) & (index < stop)
        counts = np.bincount(index[inside] - start, minlength=len(bins)).astype(float)
        ends.append((low, high))
        if not counts.any():
            lost.append(np.inf)
            continue
        middles = (quantizer.levels[1:] + quantizer.levels[:-1]) / 2
        code = np.searchsorted(middles, (bins + 0.5) * width * (1 + 1e-15), side="right")
        occupied = np.flatnonzero(counts)
        p, q = counts.copy(), np.zeros_like(counts)
        p[occupied[-1]] += np.count_nonzero(index >= stop)
        p[occupied[0]] += np.count_nonzero(index < start)
        for c in np.unique(code[occupied]):
            cell = occupied[code[occupied] == c]
            q[cell] = counts[cell].sum() / len(cell)
        p, q = p[occupied] / len(x), q[occupied] / counts.sum()
        lost.append(float((p * np.log(p / q)).sum()))
    return np.array(lost), ends


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_entropy_minimizes_the_divergence_as_defined(
    name: str, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entropy, "STRIDE", 64)  # a quarter of the candidates is enough for a bin-by-bin oracle
    entropy._cells.cache_clear()
    x = tensor(name, torch.bfloat16)[:5000]
    low, high = entropy.clip(histogram(x), format)
    entropy._cells.cache_clear()
    expected, ends = divergences(x.double().numpy(), format)
    mine = [abs(high[0] - b) + abs(low[0] - a) for a, b in ends]
    chosen = int(np.argmin(mine))
    assert mine[chosen] < 1e-9
    assert expected[chosen] == pytest.approx(expected.min(), abs=1e-9)


@pytest.mark.parametrize("name", ["gaussian", "laplace", "student", "lognormal", "uniform"])
@pytest.mark.parametrize("format", ["int8", "int4", "fp8_e4m3", "e2m1"])
def test_entropy_of_float32_is_that_of_its_values(name: str, format: str) -> None:
    """Where there are values enough for the divergence to tell its candidates apart."""
    rng, size = np.random.default_rng(0), 3_000_000
    drawn = {
        "gaussian": rng.standard_normal,
        "laplace": lambda n: rng.laplace(size=n),
        "student": lambda n: rng.standard_t(3, n),
        "lognormal": lambda n: rng.lognormal(0, 1.5, n),
        "uniform": lambda n: rng.uniform(-1, 1, n),
    }[name](size)
    x = np.abs(drawn.astype(np.float32).astype(np.float64))
    counts = np.bincount(np.minimum((x / (x.max() / 2048)).astype(int), 2047), minlength=2048)
    exact = entropy.divergence(entropy.Binned.of(counts[:, None].astype(np.float64)), entropy._cells(named(format)))
    best = entropy.candidates(named(format))[len(exact) - 1 - exact[::-1, 0].argmin()] / 2048 * x.max()
    chosen = entropy.clip(histogram(torch.from_numpy(x).float()), named(format))[1][0]
    assert chosen == pytest.approx(best, rel=1e-6)


def test_entropy_clips_outliers_and_keeps_a_uniform_range() -> None:
    uniform, spiky = tensor("uniform"), torch.cat([tensor("gaussian"), torch.full((3,), 60.0)])
    assert read(uniform, METHODS["entropy"]).high[0] > 0.95
    assert read(spiky, METHODS["entropy"]).high[0] < 10


# --- all ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("method", POOLED)
def test_nothing_and_zeros_have_defined_answers(method: Method, format: Format) -> None:
    clips = scales.clip(histogram(torch.zeros(0), torch.zeros(7)), method, 0.999, format)
    assert np.isnan([clips.low[0], clips.high[0], clips.scale[0]]).all()
    assert (clips.low[1], clips.high[1], clips.scale[1]) == (0, 0, 0)
    only_nothing = scales.clip(histogram(torch.zeros(0)), method, 0.999, format)
    assert np.isnan(only_nothing.high).all()


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("method", POOLED)
def test_same_counts_same_clip(method: Method, format: Format) -> None:
    """No randomness, and no dependence on the order of the values."""
    x = tensor("student")
    first, again = (scales.clip(histogram(v), method, 0.999, format) for v in (x, x.flip(0)))
    assert (first.low[0], first.high[0]) == (again.low[0], again.high[0])


def test_scale_is_the_placed_quantizers() -> None:
    for format in FORMATS:
        for name in NAMES:
            clips = read(tensor(name), METHODS["percentile"], format.name)
            assert clips.scale[0] == format.place(clips.low[0], clips.high[0]).scale


def test_a_zero_point_pays_after_silu() -> None:
    """Half of the symmetric codes stand for values below -0.28, which SiLU never gives: almost one bit, 6 dB."""
    observed = histogram(tensor("silu", torch.bfloat16))
    gain = {}
    for name in ("int8", "int8_asym"):
        clips = scales.clip(observed, METHODS["minmax"], None, formats.named(name))
        gain[name] = measure(observed, formats.named(name).place(clips.low[0], clips.high[0])).sqnr_db[0]
    assert 5.5 < gain["int8_asym"] - gain["int8"] < 7


def test_jackknife_error_of_a_mean_is_its_standard_error() -> None:
    x = np.random.default_rng(0).standard_normal(8)
    means = np.array([np.delete(x, k).mean() for k in range(8)])
    assert scales.jackknife_error(means) == pytest.approx(x.std(ddof=1) / np.sqrt(8))
    assert np.isnan(scales.jackknife_error(np.array([1.0])))
