"""What a calibration gathers beyond histograms and channel maxima, and why it is not always there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sweep.config.config import Config
from sweep.quantization import granularity
from sweep.quantization.methods import registry as methods
from sweep.quantization.methods.method import Reads
from sweep.quantization.sort_and_cluster import Ints
from sweep.quantization.statistics import Key, Statistics


@dataclass(frozen=True)
class Collect:
    """quantiles: alphas whose quantiles are taken of every text (percentile_ema; a sort per text and site, several
    times the cost of a histogram). ssm_state: whether the last state of every text is observed (another scan).
    groups: per layer and site, channels that get histograms of their own; nothing else is observed then."""

    quantiles: tuple[float, ...] = ()
    ssm_state: bool = False
    groups: Mapping[Key, Mapping[str, Ints]] = field(default_factory=dict)

    @property
    def preimage(self) -> dict[str, Any]:
        """Its share of a calibration's identity; empty for a plain one."""
        found: dict[str, Any] = {}
        if self.quantiles:
            found["text_quantiles"] = list(self.quantiles)
        if self.ssm_state:
            found["ssm_state"] = True
        if self.groups:
            digest = hashlib.sha256()
            for key, groups in sorted(self.groups.items()):
                for part, channels in groups.items():
                    digest.update(f"{key} {part} {channels.tolist()}".encode())
            found["grouping"] = digest.hexdigest()
        return found


def of(config: Config) -> Collect:
    """What a cell needs. percentile_ema at an alpha that is not listed has it added, which is another calibration."""
    of_texts = (choice for choice in config.choices if methods.named(choice.method).reads is Reads.TEXT_QUANTILES)
    alphas = {choice.alpha for choice in of_texts if choice.alpha is not None}
    if alphas:
        alphas |= set(config.calibration.text_quantiles)
    return Collect(tuple(sorted(alphas)), config.calibration.ssm_state)


def second_pass(config: Config, first: Statistics) -> Collect | None:
    """Histograms of the groups, which only the first pass tells: what granularity=group needs unless channel maxima
    do, which they do for method=minmax and symmetric formats. None where they do."""
    if config.granularity != "group" or config.reads_maxima:
        return None
    groupings = granularity.by_group(first, config.grouping.head_groups, config.grouping.dim_groups)
    groups: dict[Key, dict[str, Ints]] = {}
    for (layer, name), site in first.sites.items():
        split = granularity.grouped(name, site.channel_absmax.shape[1], first.meta, groupings[layer])
        if split:
            groups[layer, name] = {granularity.name(name, place): channels for place, channels in split}
    return replace(of(config), ssm_state=False, groups=groups)
