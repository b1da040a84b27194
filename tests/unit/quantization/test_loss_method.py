"""method=loss against brute force over 20,000 clips on the weighted histogram."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_registry import NF4

from sweep.config.config import Config
from sweep.config.knobs import Calibration, Data, Model
from sweep.core.errors import UsageError
from sweep.quantization import formats, predicted_loss, site_scales
from sweep.quantization.formats import FORMATS, Format
from sweep.quantization.methods.registry import METHODS, Clips
from sweep.quantization.site_statistics import SiteStatistics
from sweep.quantization.statistics import Statistics
from sweep.runs import tables
from tests.distributions import NAMES
from tests.gradients import FOLDS, TOKENS, differentiated, observed

CANDIDATES = 20_000
EVERY = [*FORMATS.values(), formats.named("e3m2"), NF4]
LOSS = METHODS["loss"]


def brute(x: np.ndarray, weights: np.ndarray, low: float, high: float, format: Format) -> tuple[np.ndarray, np.ndarray]:
    """Candidates [C, 2] between the extremes, and what each costs, [C]; with a zero point 100 x 200 of them."""
    if format.symmetric:
        size = np.arange(1, CANDIDATES + 1) / CANDIDATES * max(-low, high)
        ends = np.stack([-size, size], 1)
    else:
        low, high = min(low, 0.0), max(high, 0.0)
        pairs = (CANDIDATES, 1) if high == 0 else (1, CANDIDATES) if low == 0 else (100, 200)
        lows, highs = (np.arange(1, n + 1) / n * end for n, end in zip(pairs, (low, high), strict=True))
        ends = np.stack(np.meshgrid(lows, highs), -1).reshape(-1, 2)
    below = [np.concatenate([[0.0], np.cumsum(weights * x**power)]) for power in range(3)]
    costs = []
    for part in np.array_split(ends, 50):
        bottom, top = part.T[..., None]
        scale = top / format.largest if format.symmetric else (top - bottom) / format.largest
        zero = 0.0 if format.symmetric else np.rint(-bottom / scale)
        level = (format.codes - zero) * scale
        inner = np.searchsorted(x, (level[:, 1:] + level[:, :-1]) / 2)
        cut = np.concatenate([0 * inner[:, :1], inner, np.full_like(inner[:, :1], len(x))], 1)
        zeroth, first, second = (np.diff(moment[cut]) for moment in below)
        costs.append((second - 2 * level * first + level**2 * zeroth).sum(1))
    return ends, np.concatenate(costs)


def chosen(site: SiteStatistics, format: Format) -> Clips:
    return site_scales.clips_of(site, site.replicates, LOSS, None, format)


@pytest.mark.parametrize("format", EVERY, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_no_candidate_costs_less(name: str, format: Format) -> None:
    """By less than 1e-11 of the weighted power, which is rounding: or the clip is next to the best candidate."""
    x, _, site = observed(name)
    gradients = predicted_loss.weighted(site)
    assert gradients is not None
    clips = chosen(site, format)
    for member in (0, 3):  # all folds, and all but one
        folds = site.replicates.members[member]
        weights = folds.astype(float) @ gradients.weights
        values = x[torch.from_numpy(folds)]
        ends, costs = brute(gradients.x, weights, float(values.min()), float(values.max()), format)
        low, high = float(clips.low[member]), float(clips.high[member])
        assert high - low <= (ends[-1, 1] - ends[:, 0].min()) * (1 + 1e-12)
        error = gradients.x - format.place(low, high).quantize(gradients.x)
        mine, floor = weights @ error**2, 1e-11 * (weights @ gradients.x**2)
        best = int(costs.argmin())
        near = format.symmetric and abs(ends[best, 1] - high) <= 1.01 * ends[0, 1]
        assert near or mine <= costs[best] * 1.003 + floor, (mine, costs[best])


@pytest.mark.parametrize("format", EVERY, ids=str)
def test_it_predicts_no_more_than_any_other_method(format: Format) -> None:
    for name in NAMES:
        _, _, site = observed(name, seed=1)
        losses = {}
        for method in ("minmax", "percentile", "mse", "entropy", "loss"):
            read = site_scales.of_histograms([(site_scales.WHOLE, site)], METHODS[method], 0.999, format)
            losses[method] = float(read.loss[0, 0])
        gradients = predicted_loss.weighted(site)
        assert gradients is not None
        floor = 1e-11 * (gradients.weights.sum(0) @ gradients.x**2) / sum(TOKENS)
        assert losses["loss"] <= min(losses.values()) * 1.003 + floor, (name, losses)


def test_it_follows_the_gradients() -> None:
    """Nothing depends on values beyond 1: they are clipped, whatever they cost in squared error."""
    x, g, site = observed("student")
    site = differentiated(site, x, np.where(np.abs(x.double().numpy()) > 1, 0.0, g), TOKENS)
    assert chosen(site, FORMATS["int8"]).high[0] <= 1.01
    assert site_scales.clips_of(site, site.replicates, METHODS["mse"], None, FORMATS["int8"]).high[0] > 5


def test_where_nothing_costs_anything_it_is_minmax_and_where_nothing_quantizes_mse() -> None:
    x, g, site = observed("student")
    for format in (FORMATS["int8"], FORMATS["int8_asym"]):
        for other, like in ((differentiated(site, x, 0 * g, TOKENS), "minmax"), (replace(site, fisher=None), "mse")):
            expected = site_scales.clips_of(other, other.replicates, METHODS[like], None, format)
            np.testing.assert_array_equal(chosen(other, format).low, expected.low)
            np.testing.assert_array_equal(chosen(other, format).high, expected.high)
    one = np.zeros_like(g)
    one[2] = g[2]  # without this fold nothing has a gradient
    clips = chosen(differentiated(site, x, one, TOKENS), FORMATS["int8"])
    assert clips.high[3] == float(x[[0, 1, 3]].abs().max())
    assert clips.high[0] < float(x.abs().max())


def test_float32_is_read_off_too() -> None:
    _, _, site = observed("student", torch.float32)
    assert site.pooled is not None
    read = site_scales.of_histograms([(site_scales.WHOLE, site)], LOSS, None, FORMATS["int4"])
    other = site_scales.of_histograms([(site_scales.WHOLE, site)], METHODS["mse"], None, FORMATS["int4"])
    assert read.loss[0, 0] <= other.loss[0, 0]
    assert read.scale.shape == (1, 1 + FOLDS)


def test_without_gradients_one_line_says_what_to_add() -> None:
    named = Model("tiny", "nowhere"), Data("stdlib")
    with pytest.raises(UsageError, match=r"method=loss .* calibration.fisher=0 .*: add calibration.fisher=64, the"):
        Config(*named, method="loss")
    with pytest.raises(UsageError, match=r"add calibration.fisher=8,"):
        Config(*named, Calibration(samples=8), method="loss")
    config = Config(*named, Calibration(samples=8, fisher=8), method="loss")
    assert config.label == "tiny loss int8 tensor samples=8 fisher=8"
    _, _, site = observed("student")
    sites = {(0, "in_proj_in"): site, (0, "x_conv_out"): replace(site, fisher=None)}
    with pytest.raises(UsageError, match="method=loss: no gradients were collected of x_conv_out of layer 0; choose"):
        tables.build(Statistics(sites, {"n_layer": 1}), config)
