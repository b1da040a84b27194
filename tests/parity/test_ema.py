"""percentile_ema against an independent float64 re-implementation, on the tiny model."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch

from sweep.calibration import tokens
from sweep.calibration.collect import Collect
from sweep.calibration.loop import calibrate
from sweep.calibration.taps import taps
from sweep.calibration.text_quantiles import text_quantiles
from sweep.config import config, knobs
from sweep.models import load
from sweep.models.kernels.patch import kernels
from sweep.quantization.statistics import Statistics
from sweep.runs import tables

TINY = knobs.Model("tiny", "pkg://sweep/models/tiny")
CALIBRATION = knobs.Calibration(samples=11, seqlen=40, folds=3, batch_size=1)
ALPHAS = (0.5, 0.99, 0.9995, 1.0)
Texts = dict[tuple[int, str], list[np.ndarray]]


@pytest.fixture(scope="module")
def observed() -> tuple[Statistics, Texts]:
    """Statistics, and each text's values per layer and site, float64, in the original order of the texts."""
    model = load.load(TINY, "cpu", "float32")
    windows = tokens.load(knobs.Data("stdlib"), load.encoder(TINY), CALIBRATION)
    texts: Texts = defaultdict(list)
    with (
        torch.inference_mode(),
        kernels(model.mixers, model.device) as convolve,
        taps(model.mixers, lambda layer, site, x: texts[layer, site].append(x.double().numpy()), convolve, True),
    ):
        for window in windows.windows:
            model.backbone(torch.from_numpy(np.asarray(window))[None])
    collect = Collect(ALPHAS, ssm_state=True)
    statistics, _ = calibrate(model, windows, CALIBRATION, lambda done, total: None, collect=collect)
    return statistics, texts


def quamba(texts: list[np.ndarray], alpha: float) -> float:
    """`PerTensorPercentileObserver`, symmetric, step by step."""
    w = None
    for x in texts:
        q = np.quantile(np.abs(x), alpha)
        w = q if w is None else w + 0.01 * (q - w)
    assert w is not None
    return float(w)


def quamba_asymmetric(texts: list[np.ndarray], alpha: float) -> tuple[float, float]:
    low = high = None
    for x in texts:
        a, b = np.quantile(x, 1.0 - alpha), np.quantile(x, alpha)
        low, high = (a, b) if low is None or high is None else (low + 0.01 * (a - low), high + 0.01 * (b - high))
    assert low is not None
    assert high is not None
    return float(low), float(high)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_equal_to_the_independent_implementation(observed: tuple[Statistics, Texts], alpha: float) -> None:
    statistics, texts = observed
    cell = config.Config(TINY, knobs.Data("stdlib"), CALIBRATION, method="percentile_ema", alpha=alpha)
    built = tables.build(statistics, cell)
    rows = built.scales.to_pylist()
    assert {(r["layer"], r["site"]) for r in rows} == set(texts)
    for row in rows:
        here = texts[row["layer"], row["site"]]
        expected = quamba(here, alpha)
        assert row["clip"] == pytest.approx(expected, rel=1e-6)
        assert row["scale"] == pytest.approx(expected / 127, rel=1e-6)
    for row in built.replicates.filter(built.replicates["layer"].to_numpy() == 2).to_pylist():
        here = texts[2, row["site"]]
        means = np.log([np.mean([quamba([x], alpha) for x in here[k::3]]) for k in range(3)])
        weights = np.array([0.99 ** (len(here) - 1), *(0.01 * 0.99 ** np.arange(len(here) - 2, -1, -1.0))])
        spread = np.sqrt(np.square(weights).sum() * len(here))  # 1 where all texts count alike
        moved = spread * (np.delete(means, row["fold"]).mean() - means.mean())
        assert row["scale"] == pytest.approx(quamba(here, alpha) / 127 * np.exp(moved), rel=1e-6)
    for row in built.convergence.filter(built.convergence["layer"].to_numpy() == 2).to_pylist():
        first = [x for i, x in enumerate(texts[2, row["site"]]) if i % 3 < row["folds"]]
        assert row["scale"] == pytest.approx(quamba(first, alpha) / 127, rel=1e-6)


def test_with_a_zero_point(observed: tuple[Statistics, Texts]) -> None:
    statistics, texts = observed
    cell = config.Config(
        TINY, knobs.Data("stdlib"), CALIBRATION, method="percentile_ema", alpha=0.99, format="int8_asym"
    )
    for row in tables.build(statistics, cell).scales.to_pylist():
        low, high = quamba_asymmetric(texts[row["layer"], row["site"]], 0.99)
        assert row["clip"] == pytest.approx(max(high, 0), rel=1e-6)
        assert row["clip_low"] == pytest.approx(min(low, 0), rel=1e-6)


def test_the_order_of_the_texts_matters_as_it_does_there(observed: tuple[Statistics, Texts]) -> None:
    _, texts = observed
    here = texts[0, "x_conv_out"]
    assert quamba(here, 0.9995) != pytest.approx(quamba(here[::-1], 0.9995), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("alpha", [0.001, 0.5, 0.9995, 1.0])
def test_text_quantiles_are_torchs(alpha: float, dtype: torch.dtype) -> None:
    x = torch.randn(3, 50, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    got = text_quantiles(x, [alpha, 0.9])[:, 0]
    flat = x.double().flatten(1)
    for column, (values, q) in enumerate(((flat.abs(), alpha), (flat, 1 - alpha), (flat, alpha))):
        torch.testing.assert_close(got[:, column], torch.quantile(values, q, dim=1), rtol=1e-12, atol=1e-12)


def test_statistics_keep_the_quantiles(observed: tuple[Statistics, Texts], tmp_path) -> None:  # type: ignore[no-untyped-def]
    statistics, _ = observed
    statistics.save(tmp_path / "s.parquet")
    again = Statistics.load(tmp_path / "s.parquet")
    for key, site in statistics.sites.items():
        assert again.sites[key].text_alphas.tolist() == list(ALPHAS)
        for a, b in zip(site.text_quantiles, again.sites[key].text_quantiles, strict=True):
            np.testing.assert_array_equal(a, b)
