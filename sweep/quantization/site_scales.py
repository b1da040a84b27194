"""Scales of one site: for every part with a scale of its own the scale, its replicates and its cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sweep.quantization import metrics, predicted_loss, replicates, window
from sweep.quantization.formats import Format
from sweep.quantization.methods import registry as scales
from sweep.quantization.methods.method import Method, Observed
from sweep.quantization.methods.registry import Clips
from sweep.quantization.site_statistics import SiteStatistics, Subsets
from sweep.quantization.types import Floats, Ints

NOWHERE = -1  # a group number of a part that is not split that way
WHOLE = (NOWHERE, NOWHERE, NOWHERE)
Place = tuple[int, int, int]  # ssd_group, head_group, dim_group


@dataclass(frozen=True, eq=False)
class Reading:
    """P parts of one site. Column 0 of scale, sqnr_db and loss, float64 [P, 1 + K], is from all K folds, the others are
    the replicates (see `replicates`): the scale as without fold k, and SQNR and predicted loss of the other folds at
    that scale. Everything else is from all folds, [P]; NaN where the statistics do not tell. sections: of each part,
    the clip of all folds and of each by itself; none where they are read off channel maxima."""

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
    sections: tuple[Clips, ...] = field(default=(), kw_only=True)

    @property
    def scale_se(self) -> Floats:
        return scales.jackknife_error(self.scale[:, 1:])

    @property
    def loss_se(self) -> Floats:
        return scales.jackknife_error(self.loss[:, 1:])


def of_histograms(
    parts: Sequence[tuple[Place, SiteStatistics]],
    method: Method,
    alpha: float | None,
    format: Format,
    factor: float = 1.0,
) -> Reading:
    """One part for each set of statistics, with everything that a histogram tells.

    factor: what errors are multiplied by, see `replicates.error_factor`. Raises UsageError where a histogram does not
    tell: see `sweep.quantization.window`."""
    rows, chosen = [], []
    for _, site in parts:
        chosen.append(clips := sections(site, method, alpha, format))
        quantizer = format.place(float(clips.low[0]), float(clips.high[0]))
        observed = site.replicates.observed
        cost = metrics.measure(observed, quantizer)
        moved = replicated(site, clips, np.ones(len(site.folds), bool), method, alpha, factor)
        own = [format.place(low, high) for low, high in zip(moved.low.tolist(), moved.high.tolist(), strict=True)]
        known_errors = np.isfinite(moved.high).all()
        sqnr = metrics.sqnr_each(site.left_out.observed, own) if known_errors else np.full(len(own), np.nan)
        values = (observed.n, observed.min, observed.max, observed.absmax)
        known = [v[0] if observed.n[0] else 0 * v[0] for v in values]
        ends = (quantizer.high, quantizer.low, quantizer.zero_point)
        window.check(site.total, max(abs(quantizer.high), abs(quantizer.low)), float(cost.mse[0]))
        first = (cost.clip_fraction[0], cost.mse[0], cost.code_entropy_bits[0])
        both = (np.append(clips.scale[0], moved.scale), np.append(cost.sqnr_db[0], sqnr))
        loss = predicted_loss.replicated(site, quantizer, own if known_errors else None)
        rows.append((*known, *ends, *both, loss, *first))
    columns = [np.stack([np.asarray(row[i]) for row in rows]) for i in range(len(rows[0]))]
    columns[0] = columns[0].astype(np.int64)
    return Reading(np.array([place for place, _ in parts]), *columns, sections=tuple(chosen))


def sections(site: SiteStatistics, method: Method, alpha: float | None, format: Format) -> Clips:
    """The clip of all folds, then of each fold by itself, [1 + K]."""
    if method.sections:
        return Clips(format, *method.sections(site, alpha, format))
    return clips_of(site, site.sections, method, alpha, format)


def replicated(
    site: SiteStatistics,
    clips: Clips,
    members: NDArray[np.bool_],
    method: Method,
    alpha: float | None,
    factor: float = 1.0,
) -> Clips:
    """The replicates of clips[0] from those folds among clips[1:] that members [K] names, one for each of them."""
    rate = method.rate(site, members, alpha)
    low, high = (replicates.move(end[:1], end[1:][members][None], rate, factor)[0] for end in (clips.low, clips.high))
    return Clips(clips.format, low, high)


def clips_of(site: SiteStatistics, sets: Subsets, method: Method, alpha: float | None, format: Format) -> Clips:
    """The clips of sets of folds of a site."""
    return Clips(format, *method.clip(Observed(sets.observed, sets.members, site), alpha, format))


def of_maxima(
    site: SiteStatistics, parts: Sequence[tuple[Place, Ints]], format: Format, factor: float = 1.0
) -> Reading:
    """minmax of sets of channels, from the channel maxima; what takes a histogram is unknown, but for the share of
    clipped values, which is none. Raises ValueError for formats that need both extremes."""
    if not format.symmetric:
        raise ValueError(f"{format} needs the extremes of both signs, channel maxima have none")
    absmax = np.stack([site.channel_absmax[:, channels].max(1) for _, channels in parts]).astype(np.float64)  # [P, K]
    whole = absmax.max(1)
    high = np.column_stack([whole, replicates.move(whole, absmax, 1.0, factor)])  # [P, 1 + K]
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
        zero_point=unknown,
        scale=high / format.largest,
        sqnr_db=np.full_like(high, np.nan),
        loss=np.full_like(high, np.nan),
        clip_fraction=np.zeros(len(parts)),
        mse=unknown,
        code_entropy_bits=unknown,
    )
