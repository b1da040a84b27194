"""Predicted loss of four values, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sweep.quantization import predicted_loss
from sweep.quantization.formats import named
from sweep.quantization.site_statistics import SiteStatistics
from tests.gradients import differentiated
from tests.plain_sites import plain_site

INT4 = named("int4")
ONE, TWO = INT4.place(-7.0, 7.0), INT4.place(-14.0, 14.0)  # steps of 1 and 2


def site(dtype: torch.dtype = torch.bfloat16) -> SiteStatistics:
    """Folds of 1 and 3 tokens: 0.5 and 3 with gradients 1 and 2; 8 and -9 with gradients 1/2 and 1."""
    x = torch.tensor([[0.5, 3.0], [8.0, -9.0]], dtype=dtype).view(2, 1, 2, 1)
    return differentiated(plain_site(x), x, np.array([[1.0, 2.0], [0.5, 1.0]]), [1, 3])


@pytest.mark.filterwarnings("error")
def test_half_the_sum_of_squared_gradients_times_squared_errors_per_token() -> None:
    """Steps of 1 lose 0.5, 0, 1 and 2, hence 1 * 0.25 + 4 * 0 and 0.25 * 1 + 1 * 4; steps of 2 lose 0.5, 1, 0 and 1."""
    one, two = predicted_loss.predict(site(), [ONE, TWO])
    assert one.tolist() == pytest.approx([4.5 / 4 / 2, 4.25 / 3 / 2, 0.25 / 1 / 2])
    assert two.tolist() == pytest.approx([(4.25 + 1) / 4 / 2, 1 / 3 / 2, 4.25 / 1 / 2])


@pytest.mark.filterwarnings("error")
def test_of_each_replicate_its_own() -> None:
    """All folds with the quantizer, all but the first with one, all but the second with another."""
    got = predicted_loss.replicated(site(), ONE, [TWO, ONE])
    assert got.tolist() == pytest.approx([4.5 / 4 / 2, 1 / 3 / 2, 0.25 / 1 / 2])
    got = predicted_loss.replicated(site(), ONE, None)
    assert got[0] == pytest.approx(4.5 / 4 / 2)
    assert np.isnan(got[1:]).tolist() == [True, True]


@pytest.mark.filterwarnings("error")
def test_what_is_unknown_is_nan() -> None:
    without = replace(site(), fisher=None)
    assert predicted_loss.weighted(without) is None
    assert np.isnan(predicted_loss.predict(without, [ONE, TWO, ONE])).tolist() == [[True] * 3] * 3
    x = torch.tensor([0.5, 3.0]).bfloat16().view(1, 1, 2, 1)
    alone = differentiated(plain_site(x), x, np.array([[1.0, 2.0]]), [2])
    (loss,) = predicted_loss.predict(alone, [ONE])
    assert loss[0] == 0.25 / 2 / 2
    assert np.isnan(loss[1])  # no fold is left


def test_values_stand_for_their_bins_and_go_no_further_than_the_extremes() -> None:
    """Bins of float32 folds are four float16 values wide: 2^-9 above 0.5, 2^-7 at 3, 2^-5 at 8 and -9, and begin half a
    value below."""
    exact = predicted_loss.weighted(site())
    assert exact is not None
    assert exact.x.tolist() == [-9, 0.5, 3, 8]
    assert exact.weights.tolist() == [[0, 1, 4, 0], [1, 0, 0, 0.25]]
    assert exact.tokens.tolist() == [1, 3]
    wide = predicted_loss.weighted(site(torch.float32))
    assert wide is not None
    # in the middle: 1.5 of four values up; of 0.5 the lower edge is nearer, as values lie half as far apart below it
    middle = ((0.5 - 2.0**-13) + (0.5 + 3.5 * 2.0**-11)) / 2
    assert wide.x.tolist() == [-9, middle, 3 + 1.5 * 2.0**-9, 8]
    assert wide.weights.tolist() == exact.weights.tolist()
