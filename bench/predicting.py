"""Predicted loss read off a calibration of the 130m geometry, beside all that is read off it otherwise."""

from __future__ import annotations

import os
import time
from dataclasses import replace

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # one core is what is claimed; numpy reads it when it is imported

import numpy as np
import torch

from bench.methods import ALPHAS, CELLS, FOLDS, FOUR, LAYERS, SITES, sites
from sweep.quantization import formats, predicted_loss
from sweep.quantization.fisher import FisherHistogram
from sweep.quantization.histogram import Histogram
from sweep.quantization.methods import registry as scales
from sweep.quantization.site_statistics import SiteStatistics
from sweep.quantization.sites import quantized


def site(folds: Histogram) -> SiteStatistics:
    """The folds of a site with a squared gradient for every value, in the bins that folds have."""
    wide, nothing = folds.coarser(folds.layout.of_folds), np.zeros((FOLDS, 1))
    weights = wide.counts * np.random.default_rng(0).exponential(size=wide.counts.shape)
    return SiteStatistics(
        folds=np.arange(FOLDS, dtype=np.int32),
        samples=np.full(FOLDS, 64),
        histogram=wide,
        channel_absmax=nothing.astype(np.float32),
        channel_abs_sum=nothing,
        channel_text_mean_max=nothing.astype(np.float32),
        weight_absmax=None,
        pooled=Histogram.stack([folds.total()]),
        fisher=FisherHistogram(wide.layout, wide.bins, weights, np.full(FOLDS, 4096)),
    )


def main() -> list[str]:
    torch.set_num_threads(1)
    seconds, number, bins = 0.0, 0, []
    for name, folds in list(sites()):
        if name not in quantized():
            continue
        of = site(folds)
        bins.append(len(of.fisher.bins) if of.fisher else 0)
        observed = replace(of).replicates.observed
        for form in map(formats.named, FOUR):
            chosen = []
            for method, alpha in CELLS:
                if method.searches:
                    alpha = ALPHAS[0]  # where the clip lies changes nothing of what reading costs
                    method = scales.METHODS["percentile"]
                clips = scales.clip(observed, method, alpha, form)
                chosen.append(form.place(float(clips.low[0]), float(clips.high[0])))
            begin = time.process_time()
            predicted_loss.predict(of, chosen)
            seconds += time.process_time() - begin
            number += len(chosen)
    lines = [
        f"Predicted loss of {len(CELLS)} clips x {len(FOUR)} formats at the {len(bins)} of {LAYERS * len(SITES)} sites "
        f"that are quantized, {FOLDS} folds, {np.mean(bins):,.0f} bins on average: {seconds:.1f} s on one core, with "
        f"errors, {seconds / number * 1e6:.0f} µs each; it comes on top of what `methods` measures.",
    ]
    print("\n".join(lines))
    return lines


if __name__ == "__main__":
    main()
