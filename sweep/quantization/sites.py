"""The sites of a Mamba mixer, one row each, in the order of the data flow.

A site is added by its row here and by its `Tap`, which reads it in a network, in `sweep.models.mixer`. Calibration,
fake quantization, tables, help, charts and definitions follow from the two.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Channels(Enum):
    """The numbering of a site's channels: one by one, by head, or by SSD group and state."""

    PLAIN = "plain"
    HEADS = "heads"
    STATES = "states"


@dataclass(frozen=True)
class Site:
    """One tensor of a mixer that is observed.

    quantized: whether a quantized Mamba keeps it in few bits between its kernels; the inside of one (the convolution's
    output before SiLU, the scan's state) stays in full precision there. before: the site that it is after SiLU of.
    grouped: whether granularity=group gives groups of its channels scales of their own. knob: the one that
    turns its observation on, where it is not always observed."""

    name: str
    meaning: str
    quantized: bool = False
    before: str | None = None
    channels: Channels = Channels.PLAIN
    grouped: bool = False
    knob: str | None = None


SSM_STATE = "ssm_state"  # no slice of a tensor of the forward pass, hence computed apart (`sweep.models.ssm_state`)
_PARTS = {"x": Channels.HEADS, "B": Channels.STATES, "C": Channels.STATES}  # slices of the convolution
SITES: dict[str, Site] = {
    site.name: site
    for site in (
        Site("in_proj_in", "input of the mixer's first projection, in_proj", quantized=True),
        *(
            Site(f"{part}_conv_in", f"{part} as it enters the convolution", quantized=True, channels=channels)
            for part, channels in _PARTS.items()
        ),
        *(
            Site(f"{part}_conv_pre", f"{part} after the convolution, before SiLU", channels=channels, grouped=True)
            for part, channels in _PARTS.items()
        ),
        *(
            Site(f"{part}_conv_out", f"{part} after SiLU", True, f"{part}_conv_pre", channels, grouped=True)
            for part, channels in _PARTS.items()
        ),
        Site(
            SSM_STATE,
            "the SSM's state after a text's last token",
            channels=Channels.HEADS,
            knob="calibration.ssm_state",
        ),
        Site("out_proj_in", "input of the mixer's last projection, out_proj", quantized=True, channels=Channels.HEADS),
    )
}
MAIN = "x_conv_out"  # x after SiLU, where Quamba's alpha acts: tables show it first, and heads are grouped by it


def named(name: str) -> Site:
    """The row of a site, or of a group of its channels (`x_conv_out[0,1,2]`); a plain one for a name without a row."""
    plain = name.partition("[")[0]
    return SITES.get(plain) or Site(plain, "")


def quantized() -> tuple[str, ...]:
    """Names of the sites that a quantized Mamba keeps in few bits."""
    return tuple(site.name for site in SITES.values() if site.quantized)


def after(name: str) -> str | None:
    """Name of the site that is this one after SiLU."""
    return next((site.name for site in SITES.values() if site.before == name), None)


def ordered(names: Iterable[str]) -> list[str]:
    """Names in the order of the data flow; names without a row last, by name."""
    order = list(SITES)
    return sorted(names, key=lambda name: (order.index(name) if name in SITES else len(order), name))
