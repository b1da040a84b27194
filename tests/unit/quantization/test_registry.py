"""A method or a number format is one entry: validation, help, tables, searches and fake quantization follow from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_scales import brute, loss_db

from sweep.__main__ import help_text
from sweep.calibration import collect
from sweep.compare import load
from sweep.compare.__main__ import main as compare
from sweep.compare.render import theme
from sweep.config.config import Config
from sweep.config.knobs import Calibration, Data, Model
from sweep.core.errors import UsageError
from sweep.evaluation.channel_quantizer import Rounding
from sweep.evaluation.fake_quant import Rounder
from sweep.quantization import formats
from sweep.quantization.formats import FORMATS, Format
from sweep.quantization.methods import entropy, mse
from sweep.quantization.methods.method import Ends, Method, Observed, Reads
from sweep.quantization.methods.registry import METHODS
from sweep.quantization.statistics import Statistics
from sweep.runs import tables
from tests.distributions import histogram, tensor
from tests.harness import ROOT, Run
from tests.observed_sites import statistics

# Dettmers et al. 2023 (QLoRA), appendix E, to four digits: more numbers above zero than below
NF4 = Format(
    "nf4",
    np.array([-1, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0, 0.0796, 0.1609, 0.2461, 0.3379, 0.4407,
              0.5626, 0.7230, 1]),
    meaning="quantiles of a normal distribution",
)  # fmt: skip


def half(observed: Observed, alpha: float | None, format: Format) -> Ends:
    size = observed.histogram.absmax / 2
    return -size, size


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "half", Method("half", "half of the largest magnitude", half))
    monkeypatch.setitem(FORMATS, "nf4", NF4)


def cell(**chosen: object) -> Config:
    return Config(Model("tiny", "nowhere"), Data("stdlib"), Calibration(samples=4), **chosen)  # type: ignore[arg-type]


@pytest.mark.usefixtures("toys")
def test_they_are_validated_and_shown_in_the_help() -> None:
    config = cell(method="half", format="nf4", alpha=0.9)
    assert config.label == "tiny half nf4 tensor samples=4"
    assert config.identity == replace(config, alpha=0.99).identity
    with pytest.raises(UsageError, match=r"method=halve is unknown; allowed: minmax, .*half \(did you mean half\?\)"):
        cell(method="halve")
    with pytest.raises(UsageError, match=r"format=nf5 is unknown; allowed: int8, .*nf4, eXmY \(did you mean nf4\?\)"):
        cell(format="nf5")
    shown = help_text()
    assert "  half            half of the largest magnitude\n" in shown
    assert "  nf4             quantiles of a normal distribution\n" in shown


@pytest.mark.usefixtures("toys")
def test_they_are_rows_of_the_tables() -> None:
    x = tensor("student")[:320].view(4, 2, 20, 2)
    site = replace(statistics(x, [0, 1, 2, 3]).sites[3, "x_conv_out"], weight_absmax=None)
    built = tables.build(Statistics({(0, "in_proj_in"): site}, {"n_layer": 1}), cell(method="half", format="nf4"))
    (row,) = built.scales.to_pylist()
    assert (row["method"], row["alpha"], row["format"]) == ("half", None, "nf4")
    assert row["clip"] == row["scale"] == float(x.abs().max()) / 2
    assert built.convergence["scale_se"].null_count < 4


SMALL = ("calibration.samples=4", "calibration.seqlen=32", "calibration.folds=2", "calibration.fisher=4", "device=cpu")


@pytest.mark.usefixtures("toys")
def test_they_reach_the_report(sweep: Run, tmp_path: Path) -> None:
    """From the command line of a grid to a page that ranks them, shows each in a colour of its own, and says what
    they are."""
    grid = ("-m", "method=half,loss,mse,minmax,entropy", "format=nf4", "hydra.sweep.dir=grid", *SMALL)
    done = sweep(*grid)
    assert done.returncode == 0, done.stderr
    assert "half" in sweep(*grid, "hydra.sweeper.dry_run=true").stdout
    assert compare(["grid", "--html", "page.html"]) == 0
    page = (tmp_path / "page.html").read_text()
    for term, meaning in (("method=half", "half of the largest magnitude"), ("format=nf4", NF4.meaning)):
        assert f"<dt>{term}</dt><dd>{meaning}.</dd>" in page
    cells = load("grid").listed
    assert {cell.method for cell in cells} == {"half", "loss", "mse", "minmax", "entropy"}
    assert {cell.format for cell in cells} == {"nf4"}
    palette = theme.series(cells).palette
    assert len(set(palette)) == len(palette) == 5


def test_a_block_scaled_format_cannot_be_read_off_a_histogram() -> None:
    """OCP Microscaling: 32 neighbours share a power of two. The same values in another order cost something else, so
    nothing that forgets their places can tell (see docs/extending.md)."""
    x = tensor("student", torch.bfloat16)
    ordered, largest = x.sort().values, FORMATS["e2m1"].largest

    def error(values: torch.Tensor) -> float:
        blocks = values.double().numpy()[: len(values) // 32 * 32].reshape(-1, 32)
        power = np.exp2(np.floor(np.log2(np.abs(blocks).max(1))) - np.floor(np.log2(largest)))
        rounded = [
            FORMATS["e2m1"].place(-s * largest, s * largest).quantize(b) for s, b in zip(power, blocks, strict=True)
        ]
        return float(np.square(blocks - np.stack(rounded)).mean())

    a, b = histogram(x), histogram(ordered)
    assert np.array_equal(a.counts, b.counts)
    assert error(ordered) < 0.8 * error(x)


def test_a_method_says_what_its_calibration_collects(monkeypatch: pytest.MonkeyPatch) -> None:
    assert collect.of(cell()).quantiles == ()
    texts = Method("texts", "", half, uses_alpha=True, reads=Reads.TEXT_QUANTILES)
    monkeypatch.setitem(METHODS, "texts", texts)
    assert collect.of(cell(method="texts", alpha=0.9)).quantiles == (0.9,)


@pytest.mark.parametrize("name", ["gaussian", "silu", "lognormal", "negative", "few", "spike"])
def test_the_searches_know_what_a_lopsided_codebook_costs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not NF4.mirrored
    assert NF4.bits == 4
    x = tensor(name, torch.bfloat16)
    observed = histogram(x)
    low, high = mse.clip(observed, NF4)
    assert low == -high
    assert loss_db(observed, NF4, low[0], high[0], brute(observed, NF4)) < 0.01
    monkeypatch.setattr(entropy, "STRIDE", 64)
    low, high = entropy.clip(histogram(x[:5000]), NF4)
    values = x[:5000].double().numpy()
    expected = [divergence_of(values, kept) for kept in entropy.candidates(NF4)]
    chosen = int(np.argmin(np.abs(high[0] - entropy.candidates(NF4) / 2048 * np.abs(values).max())))
    assert expected[chosen] == pytest.approx(min(expected), abs=1e-9)


def divergence_of(values: np.ndarray, kept: int) -> float:
    """Of one candidate, bin by bin over the signed values: the definition at the head of `entropy`."""
    width = np.abs(values).max() / 2048
    index = np.clip(np.floor(values / width).astype(int), -2048, 2047)
    counts = np.array([np.count_nonzero(index == b) for b in range(-kept, kept)], float)
    if not counts.any():
        return np.inf
    quantizer = NF4.place(-kept * width, kept * width)
    middles = (quantizer.levels[1:] + quantizer.levels[:-1]) / 2
    code = np.searchsorted(middles, (np.arange(-kept, kept) + 0.5) * width * (1 + 1e-15))
    occupied = np.flatnonzero(counts)
    p, q = counts.copy(), np.zeros_like(counts)
    p[occupied[-1]] += np.count_nonzero(index >= kept)
    p[occupied[0]] += np.count_nonzero(index < -kept)
    for c in np.unique(code[occupied]):
        of_code = occupied[code[occupied] == c]
        q[of_code] = counts[of_code].sum() / len(of_code)
    p, q = p[occupied] / len(values), q[occupied] / counts.sum()
    return float((p * np.log(p / q)).sum())


def test_a_codebook_is_rounded_to_in_the_forward_pass() -> None:
    scale = 0.37
    x = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    rounder = Rounder(Rounding(NF4, np.array([scale]), np.zeros(1)), torch.device("cpu"))
    expected = NF4.place(-scale, scale).quantize(x.double().numpy())
    assert np.array_equal(rounder(x).numpy(), expected.astype(np.float32))


def test_the_definitions_have_a_row_for_each() -> None:
    text = (ROOT / "docs/definitions.md").read_text()
    for name in (*METHODS, *FORMATS, formats.SMALL_FLOATS):
        assert f"\n| `{name}` |" in text, name
