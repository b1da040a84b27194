"""What a cell reads off one site: a scale, its replicates and its cost for every part with a scale of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.quantization import metrics, predicted_loss
from sweep.quantization.formats import Format
from sweep.quantization.methods import registry as scales
from sweep.quantization.methods.method import Method, Observed
from sweep.quantization.methods.registry import Clips
from sweep.quantization.site_statistics import SiteStatistics, Subsets, leave_one_out

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NOWHERE = -1  # a group number of a part that is not split that way
WHOLE = (NOWHERE, NOWHERE, NOWHERE)
Place = tuple[int, int, int]  # ssd_group, head_group, dim_group


@dataclass(frozen=True, eq=False)
class Reading:
    """P parts of one site. Column 0 of scale, sqnr_db and loss, float64 [P, 1 + K], is from all K folds, column k from
    all but the k-th. Everything else is from all folds, [P]; NaN where the statistics do not tell."""

    place: Ints  # [P, 3]
    n: Ints
    min: Floats
    max: Floats
    absmax: Floats
    clip: Floats
    clip_low: Floats
    zero_point: Floats
    scale: Floats
    sqnr_db: Floats
    loss: Floats
    clip_fraction: Floats
    mse: Floats
    code_entropy_bits: Floats

    @property
    def scale_se(self) -> Floats:
        return scales.jackknife_error(self.scale[:, 1:])

    @property
    def loss_se(self) -> Floats:
        return scales.jackknife_error(self.loss[:, 1:])


def of_histograms(
    parts: Sequence[tuple[Place, SiteStatistics]], method: Method, alpha: float | None, format: Format
) -> Reading:
    """One part for each set of statistics, with everything that a histogram tells."""
    rows = []
    for _, site in parts:
        clips = clips_of(site, site.replicates, method, alpha, format)
        quantizer = format.place(float(clips.low[0]), float(clips.high[0]))
        observed = site.replicates.observed
        cost = metrics.measure(observed, quantizer)
        values = (observed.n, observed.min, observed.max, observed.absmax)
        known = [v[0] if observed.n[0] else 0 * v[0] for v in values]
        ends = (quantizer.high, quantizer.low, quantizer.zero_point)
        first = (cost.clip_fraction[0], cost.mse[0], cost.code_entropy_bits[0])
        rows.append((*known, *ends, clips.scale, cost.sqnr_db, predicted_loss.predict(site, [quantizer])[0], *first))
    columns = [np.stack([np.asarray(row[i]) for row in rows]) for i in range(len(rows[0]))]
    columns[0] = columns[0].astype(np.int64)
    return Reading(np.array([place for place, _ in parts]), *columns)


def clips_of(site: SiteStatistics, sets: Subsets, method: Method, alpha: float | None, format: Format) -> Clips:
    """The clips of sets of folds of a site."""
    return Clips(format, *method.clip(Observed(sets.observed, sets.members, site), alpha, format))


def of_maxima(site: SiteStatistics, parts: Sequence[tuple[Place, Ints]], format: Format) -> Reading:
    """minmax of sets of channels, from the channel maxima; what takes a histogram is unknown, but for the share of
    clipped values, which is none. Raises ValueError for formats that need both extremes."""
    if not format.symmetric:
        raise ValueError(f"{format} needs the extremes of both signs, channel maxima have none")
    members = leave_one_out(len(site.folds))
    absmax = np.stack([site.channel_absmax[:, channels].max(1) for _, channels in parts])  # [P, K]
    high = np.where(members, absmax[:, None].astype(np.float64), 0.0).max(-1)  # [P, 1 + K]
    if len(site.folds) == 1:
        high[:, 1:] = np.nan
    width = np.array([len(channels) for _, channels in parts])
    n = int(site.histogram.counts.sum()) // site.channel_absmax.shape[1] * width
    unknown = np.full(len(parts), np.nan)
    return Reading(
        place=np.array([place for place, _ in parts]),
        n=n,
        min=unknown,
        max=unknown,
        absmax=high[:, 0],
        clip=high[:, 0],
        clip_low=-high[:, 0],
        zero_point=0 * unknown,
        scale=high / format.largest,
        sqnr_db=np.full_like(high, np.nan),
        loss=np.full_like(high, np.nan),
        clip_fraction=np.zeros(len(parts)),
        mse=unknown,
        code_entropy_bits=unknown,
    )
