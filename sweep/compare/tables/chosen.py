"""The cells and the site that a table shows where not all fit, or none was asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sweep.compare.query.comparison import Comparison


def main_site(runs: Comparison) -> str:
    """The site that tables show unless one was asked for: x after SiLU, where Quamba's alpha acts."""
    return "x_conv_out" if "x_conv_out" in runs.sites else runs.sites[0]


def pick(indices: Sequence[int], most: int) -> list[int]:
    """At most `most` of them, evenly spread, first and last among them."""
    if len(indices) <= most:
        return list(indices)
    return [indices[i] for i in np.linspace(0, len(indices) - 1, most).astype(int)]


def one_per_model(runs: Comparison) -> list[int]:
    """The cell of every model nearest to the common default: percentile 0.9995, one scale per tensor."""
    best: dict[str, tuple[tuple[bool, bool, float], int]] = {}
    for n, c in enumerate(runs.listed):
        key = (c.granularity != "tensor", c.method != "percentile", abs((c.alpha or 2.0) - 0.9995))
        if c.model not in best or key < best[c.model][0]:
            best[c.model] = (key, n)
    return [n for _, n in best.values()]
