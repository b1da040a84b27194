"""The clip of least predicted loss, of few values: the optimum itself, to the last digits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_mse import FORMATS, best

from sweep.quantization.formats import Format
from sweep.quantization.methods import loss, minmax, mse
from sweep.quantization.methods.method import Observed, Reads
from sweep.quantization.site_statistics import SiteStatistics, Subsets
from sweep.quantization.types import Floats
from tests.gradients import differentiated
from tests.plain_sites import plain_site

K, N, TOKENS = 3, 40, [5, 7, 6]


def weighed(seed: int, dead: tuple[int, ...] = ()) -> tuple[Floats, Floats, SiteStatistics]:
    """Values [K, N], their gradients, of which those of some folds are zero, and the site of both."""
    random = np.random.default_rng(seed)
    x = torch.tensor(random.standard_normal((K, 1, N, 1)) * np.exp(random.standard_normal((K, 1, N, 1)))).bfloat16()
    g = random.standard_normal(x.shape) * 1e-3
    g[list(dead)] = 0
    return x.double().numpy().reshape(K, N), g.reshape(K, N), differentiated(plain_site(x), x, g, TOKENS)


def clip(site: SiteStatistics, sets: Subsets, format: Format) -> tuple[Floats, Floats]:
    return loss.clip(Observed(sets.observed, sets.members, site), None, format)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_it_is_the_least_of_all_parabolas(format: Format) -> None:
    for seed in range(2):
        x, g, site = weighed(seed)
        for sets in (site.replicates, site.sections):
            low, high = clip(site, sets, format)
            for k, members in enumerate(sets.members):
                values, weights = x[members].ravel(), np.square(g[members]).ravel()
                cost, scale = best(values, format, weights)
                quantizer = format.place(low[k], high[k])
                error = values - quantizer.quantize(values)
                assert (weights * np.square(error)).sum() == pytest.approx(cost, rel=1e-9)
                assert quantizer.scale == pytest.approx(scale, rel=1e-9)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_folds_without_gradient_are_not_clipped(format: Format) -> None:
    _, _, alive = weighed(0)
    for dead in ((1,), (0, 1, 2)):
        _, _, site = weighed(0, dead)
        low, high = clip(site, site.sections, format)
        extremes = minmax.clip(Observed(site.sections.observed), None, format)
        for k in range(K):
            if k in dead:
                assert (low[1 + k], high[1 + k]) == (extremes[0][1 + k], extremes[1][1 + k])
            else:
                expected = clip(alive, alive.sections, format)
                assert (low[1 + k], high[1 + k]) == pytest.approx((expected[0][1 + k], expected[1][1 + k]), rel=1e-9)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_without_any_collected_all_values_weigh_alike(format: Format) -> None:
    _, _, site = weighed(0)
    plain = replace(site, fisher=None)
    for got, expected in zip(
        clip(plain, plain.sections, format), mse.clip(plain.sections.observed, format), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


def test_it_needs_gradients_and_searches() -> None:
    assert (loss.METHOD.reads, loss.METHOD.searches, loss.METHOD.power) == (Reads.FISHER, True, 3)
