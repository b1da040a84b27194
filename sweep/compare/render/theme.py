"""Colours and type of charts and report, in light and dark: safe for colour-blind eyes, legible in print.

Charts name colours as CSS variables, so the page's theme (and its print style) recolours them without
drawing anything again; pictures saved to files get the light values put in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sweep.runs.compared import Cell

FONT = "Inter, system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', Arial, sans-serif"

# name: (light, dark)
INK = {
    "paper": ("#ffffff", "#14171c"), "card": ("#f7f8fa", "#1b1f26"), "ink": ("#16191f", "#eceff4"),
    "ink-2": ("#5a6372", "#a3adbb"), "line": ("#dde1e8", "#323945"), "grid": ("#eceef2", "#262c35"),
    "accent": ("#1f5fbf", "#7db3ff"), "matters": ("#0a7a5c", "#3ecf9f"), "dead": ("#b3361b", "#ff8b6b"),
    "warn": ("#8a5a00", "#f0b44c"), "neutral": ("#eef0f3", "#2a303a"),
}  # fmt: skip
# Okabe & Ito (2008), darkened where white paper asks for it, and apart from the blues, greens and yellows of VIRIDIS
METHODS = {
    "minmax": ("#c04a00", "#ff9a4d"), "mse": ("#a8427f", "#eb9ccb"), "entropy": ("#7a6a00", "#b48cff"),
    "loss": ("#111111", "#ffffff"),
}  # fmt: skip
SPARE = (("#b00020", "#ff4d6d"), ("#6b3d1e", "#a8a8a8"))  # of what has no colour of its own: a recipe, Quamba's scales
OTHERS = (("#0072b2", "#56b4e9"), ("#00805c", "#2fd3a2"), ("#c04a00", "#ff9a4d"), ("#a8427f", "#eb9ccb"))
# viridis (van der Walt & Smith), thinned: light and dark keep the part that stands out of their paper
VIRIDIS = (
    "#440154",
    "#482475",
    "#414487",
    "#355f8d",
    "#2a788e",
    "#21918c",
    "#22a884",
    "#44bf70",
    "#7ad151",
    "#bddf26",
    "#fde725",
)
LIGHT, DARK = (0.0, 0.76), (0.36, 1.0)
# blue – neutral – orange, Cynthia Brewer's PuOr/RdBu family: never red against green
DIVERGING = (
    ("#0b4a8f", "#8ec5ff"), ("#3f83c4", "#5196d9"), ("#94c0e4", "#2f6aa3"), ("#d3e5f3", "#24445f"),
    ("#eef0f3", "#2a303a"),
    ("#fbe3cc", "#5c4023"), ("#f3b27a", "#a5692b"), ("#d97925", "#e0913f"), ("#9c4a06", "#ffc27d"),
)  # fmt: skip
# white to dark blue, dark to light: more is further from the paper
SEQUENTIAL = tuple(zip(
    ("#eef3f8", "#d3e2f0", "#aecbe4", "#7faed4", "#4f8dc0", "#2c6aa3", "#174a7c", "#0a2c52"),
    ("#1d2630", "#223a54", "#285179", "#33699c", "#4783bd", "#659fd6", "#92bee9", "#c8e0f7"),
    strict=True,
))  # fmt: skip
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
GLYPHS = "●■▲◆✚▼▶◀"  # the same, as text
DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [1, 3], [10, 4], [4, 1, 1, 1], [3, 5])


def ramp(count: int, index: int) -> tuple[str, str]:
    """Colour number `index` of `count` in order, for light and for dark paper; of one alone, the middle."""
    at = index / (count - 1) if count > 1 else 0.5
    light, dark = (_viridis(a + (b - a) * at) for a, b in (LIGHT, DARK))
    return light, dark


def by_method() -> dict[str, tuple[str, str]]:
    """A colour for each method that keeps its own: percentile's is the middle of the ramp of its alphas."""
    return {**METHODS, "percentile": ramp(1, 0)}


@dataclass(frozen=True)
class Series:
    """How cells look. settings: ways to choose a clip, colour `--c<i>` and shape i each; rests: what else tells cells
    apart, a dash each; setting, rest: per cell its position in either. palette: light and dark value of each colour."""

    settings: list[str]
    rests: list[str]
    setting: list[int]
    rest: list[int]
    dashes: list[list[int]]
    palette: list[tuple[str, str]]


def series(cells: Sequence[Cell]) -> Series:
    """Colour says how the clip is chosen (percentiles along a ramp, other methods apart); the dash says the rest."""
    ordered = sorted({(c.method, c.alpha or 0.0, c.setting) for c in cells})
    ramped = [s for s in ordered if s[0].startswith("percentile")]
    spare = iter((*SPARE, *OTHERS) * len(ordered))
    palette = [ramp(len(ramped), ramped.index(s)) if s in ramped else METHODS.get(s[0]) or next(spare) for s in ordered]
    settings = [name for _, _, name in ordered]
    keys = ("model", "format", "granularity", "data", "sizes", "dtype", "sweep")
    differing = [k for k in keys if len({getattr(c, k) for c in cells}) > 1]
    texts = [" · ".join(str(getattr(c, k)) for k in differing) for c in cells]
    rests = list(dict.fromkeys(texts))
    return Series(
        settings,
        rests,
        [settings.index(c.setting) for c in cells],
        [rests.index(text) for text in texts],
        [DASHES[i % len(DASHES)] for i in range(len(rests))],
        palette,
    )


def variables(cells: Sequence[Cell]) -> dict[str, tuple[str, str]]:
    """Every CSS variable that charts use, with its light and dark value."""
    return {
        **INK,
        **by_method(),
        **{f"c{i}": pair for i, pair in enumerate(series(cells).palette)},
        **{f"d{i}": pair for i, pair in enumerate(DIVERGING)},
        **{f"s{i}": pair for i, pair in enumerate(SEQUENTIAL)},
        **{f"p{i}": pair for i, pair in enumerate(OTHERS)},
    }


def light(text: str, values: dict[str, tuple[str, str]]) -> str:
    """`text` with every var(--name) replaced by its light value."""
    return re.sub(r"var\(--([\w-]+)\)", lambda m: values[m[1]][0], text)


CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "domainColor": "var(--line)", "gridColor": "var(--grid)", "tickColor": "var(--line)",
        "labelColor": "var(--ink-2)",
        "titleColor": "var(--ink-2)", "labelFontSize": 11, "titleFontSize": 11.5, "titleFontWeight": 500,
        "labelFont": FONT, "titleFont": FONT, "titlePadding": 8, "labelOverlap": True, "tickSize": 4,
    },
    "axisX": {"grid": False},
    "axisY": {"domain": False, "ticks": False},
    "legend": {
        "labelColor": "var(--ink-2)", "titleColor": "var(--ink-2)", "labelFont": FONT, "titleFont": FONT,
        "titleFontWeight": 500, "orient": "top", "symbolStrokeWidth": 2.5,
        "layout": {"top": {"direction": "vertical", "margin": 4}},
    },
    "text": {"font": FONT, "color": "var(--ink)"},
    "rule": {"color": "var(--ink-2)"},
    "range": {"category": [f"var(--p{i})" for i in range(len(OTHERS))]},
}  # fmt: skip


def _viridis(at: float) -> str:
    position = at * (len(VIRIDIS) - 1)
    low = min(int(position), len(VIRIDIS) - 2)
    mix = position - low
    pairs = [(int(VIRIDIS[low][i : i + 2], 16), int(VIRIDIS[low + 1][i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * mix):02x}" for a, b in pairs)
