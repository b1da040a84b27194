"""What the tables of a cell say, each number by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sweep.config.config import Config
from sweep.config.knobs import Calibration, Data, Model
from sweep.quantization.statistics import Statistics
from sweep.runs import rows, tables
from tests.observed_sites import SITE, statistics

LAYER = SITE[0]


def test_samples_of_convergence_add_up_fold_by_fold() -> None:
    """Folds of 3, 2 and 4 samples of two values: maxima 2, 5 and 3, so that the scale grows with the second fold."""
    x = torch.tensor([[[1.0], [2.0]], [[5.0], [4.0]], [[3.0], [0.5]]], dtype=torch.bfloat16)[:, None]
    observed = statistics(x, [0, 1, 2], weight=None)
    site = replace(observed.sites[SITE], samples=np.array([3, 2, 4]))
    config = Config(Model("tiny", "nowhere"), Data("stdlib"), Calibration(samples=9), method="minmax")
    table = tables.build(Statistics({SITE: site}, observed.meta), config).convergence.to_pydict()
    assert table["folds"] == [1, 2, 3]
    assert table["samples"] == [3, 5, 9]
    assert table["n"] == [2, 4, 6]
    assert table["scale"] == pytest.approx([2 / 127, 5 / 127, 5 / 127])
    assert table["scale_se"][0] is None


def test_histograms_by_hand() -> None:
    """Bins are an eighth of an octave wide and hold their lower end; magnitudes below 2^-17.875 share the two bins
    around 0, those from 2^14 on the last ones."""
    values = [0.0, 2.0**-18, -(2.0**-18), 1.0, 1.0, 2.0**0.125 * 1.01, -1.0, 2.0**15, -(2.0**15)]
    x = torch.tensor(values, dtype=torch.bfloat16).view(1, 1, -1, 1)
    (block,) = rows.histograms(statistics(x, [0]))
    (edges,), (counts,) = block["edges"], block["counts"]
    assert (block["layer"], block["site"]) == SITE
    assert len(edges) == 513
    assert len(counts) == 512
    assert edges[[0, 255, 256, 257, 512]].tolist() == [
        -(2.0**14),
        -(2.0 ** (-18 + 1 / 8)),
        0,
        2.0 ** (-18 + 1 / 8),
        2.0**14,
    ]
    assert np.log2(edges[257:]) == pytest.approx(np.arange(1, 257) / 8 - 18)
    assert edges.tolist() == (-edges[::-1]).tolist()
    one = 256 + 18 * 8  # 1 = 2^0 is the lower end of this bin, and -1 that of its mirror image, less one
    at = {256: 2, 255: 1, one: 2, one + 1: 1, 511 - one + 1: 1, 511: 1, 0: 1}
    assert {int(i): int(counts[i]) for i in np.flatnonzero(counts)} == at
