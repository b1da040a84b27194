"""Statistics beyond histograms and channel maxima, which a calibration gathers only for the cells that need them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sweep.config.config import Config
from sweep.quantization import granularity, window
from sweep.quantization.methods import registry as methods
from sweep.quantization.methods.method import Reads
from sweep.quantization.sites import SSM_STATE
from sweep.quantization.statistics import Statistics
from sweep.quantization.types import Ints, SiteKey


@dataclass(frozen=True)
class Collect:
    """quantiles: alphas whose quantiles are taken of every text (percentile_ema; a sort per text and site, several
    times the cost of a histogram). ssm_state: whether the last state of every text is observed (another scan).
    groups: per layer and site, channels that get histograms of their own; nothing else is observed then. shifts: sites,
    or groups, that are counted times a power of two (`window`); without groups nothing else is observed."""

    quantiles: tuple[float, ...] = ()
    ssm_state: bool = False
    groups: Mapping[SiteKey, Mapping[str, Ints]] = field(default_factory=dict)
    shifts: Mapping[SiteKey, int] = field(default_factory=dict)

    @property
    def preimage(self) -> dict[str, Any]:
        """The part of a calibration's identity that these statistics make; empty for a calibration without them."""
        share: dict[str, Any] = {}
        if self.quantiles:
            share["text_quantiles"] = list(self.quantiles)
        if self.ssm_state:
            share["ssm_state"] = True
        if self.groups:
            digest = hashlib.sha256()
            for key, groups in sorted(self.groups.items()):
                for part, channels in groups.items():
                    digest.update(f"{key} {part} {channels.tolist()}".encode())
            share["grouping"] = digest.hexdigest()
        if self.shifts:
            share["shifts"] = [[*key, shift] for key, shift in sorted(self.shifts.items())]
        return share


def of(config: Config) -> Collect:
    """The statistics that a cell needs. percentile_ema at an alpha that is not listed has it added, which is another
    calibration."""
    of_texts = (choice for choice in config.choices if methods.named(choice.method).reads is Reads.TEXT_QUANTILES)
    alphas = {choice.alpha for choice in of_texts if choice.alpha is not None}
    if alphas:
        alphas |= set(config.calibration.text_quantiles)
    return Collect(tuple(sorted(alphas)), config.calibration.ssm_state)


def second_pass(config: Config, first: Statistics) -> Collect | None:
    """Histograms of the groups, which only the first pass tells: what granularity=group needs unless channel maxima
    do, which they do for method=minmax and symmetric formats. None where the maxima do."""
    if not config.second_pass:
        return None
    groupings = granularity.by_group(first, config.grouping)
    groups: dict[SiteKey, dict[str, Ints]] = {}
    shifts: dict[SiteKey, int] = {}
    for (layer, name), site in first.sites.items():
        split = granularity.grouped(name, site.channel_absmax.shape[1], first.meta, groupings[layer])
        if split:
            groups[layer, name] = {granularity.name(name, place): channels for place, channels in split}
            for part, channels in groups[layer, name].items():
                if shift := window.of_group(site, float(site.channel_absmax[:, channels].max())):
                    shifts[layer, part] = shift
    return replace(of(config), ssm_state=False, groups=groups, shifts=shifts)


def rescaled(config: Config, first: Statistics) -> Collect | None:
    """The sites that lie beyond the window of float32's bins, once more and scaled. None where none does."""
    if not (shifts := window.shifts(first)):
        return None
    state = any(site == SSM_STATE for _, site in shifts)
    return replace(of(config), quantiles=(), ssm_state=state, shifts=shifts)
