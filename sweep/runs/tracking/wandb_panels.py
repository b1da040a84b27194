"""Panels and columns of a sweep for W&B, cost first. Plain descriptions, made without wandb.

A workspace and a report are built of the same ones. Only what a cell logged is shown: no panel is empty."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sweep.quantization import sites as registry
from sweep.runs.ranks import ranks
from sweep.runs.tracking.view import MEAN_SQNR, View

WORST_SQNR = "worst/sqnr_db"
KL, PREDICTED, PERPLEXITY = "evaluation/kl", "loss/loss", "evaluation/perplexity"
NAMES = {
    KL: "measured KL, nats per token",
    PREDICTED: "predicted loss, nats per token",
    PERPLEXITY: "perplexity",
    MEAN_SQNR: "mean SQNR of the quantized sites, dB",
    WORST_SQNR: "SQNR of the worst layer and site, dB",
}
KNOBS = ("cell.model", "cell.method", "cell.alpha", "cell.format", "cell.granularity")  # of the runs' configuration
LINES = (  # column, heading, whether its axis is logarithmic, whether only quantized sites are shown
    ("loss", "Predicted loss by layer, nats per token", True, True),
    ("sqnr_db", "SQNR by layer, dB", False, True),
    ("scale", "Scale by layer", True, False),
    ("silu_gain", "SiLU gain by layer: scale after / before SiLU, at most 1 for a quantile", False, False),
    ("ratio", "Ratio by layer: activation / weight scale, which says nothing of SiLU", False, False),
)


LOOKS = (  # of cells whose calibration stopped by a tolerance: key over the number of samples, heading
    ("tolerance/settled", "Share of scales that are known well enough"),
    ("tolerance/error", "Relative error of a scale that decides"),
    ("tolerance/loss_error", "Relative error of the predicted loss"),
)


@dataclass(frozen=True)
class Panel:
    """The base of all panels: a heading; log: whether the value axis is logarithmic."""

    title: str
    log: bool = False


@dataclass(frozen=True)
class Line(Panel):
    """A column of the history over another one, a line per run."""

    metric: str = ""
    over: str = "layer"


@dataclass(frozen=True)
class Bar(Panel):
    """A key of the summary, a bar per run."""

    metric: str = ""


@dataclass(frozen=True)
class Scatter(Panel):
    """Two keys of the summary against each other, a point per run; `log` is of the vertical axis."""

    x: str = ""
    y: str = ""
    log_x: bool = False


@dataclass(frozen=True)
class Parallel(Panel):
    """Parallel coordinates: the knobs that differ between the runs, then keys of the summary; a line per run."""

    knobs: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Importance(Panel):
    """The importance of each knob for a key of the summary."""

    metric: str = ""


@dataclass(frozen=True)
class Section:
    """Panels under a heading; is_open: whether they are drawn before someone asks for them."""

    heading: str
    panels: tuple[Panel, ...]
    is_open: bool


def cost(views: list[View]) -> str:
    """The key of the summary that runs are ranked by: the measured KL or the predicted loss, see `ranks`; else the
    SQNR, which knows nothing of the network."""
    return ranks({key: sum(key in v.summary for v in views) for key in (KL, PREDICTED)}, len(views)) or sqnr(views)


def sqnr(views: list[View]) -> str:
    """The SQNR that stands for a run: the mean over the quantized sites where every run logged it, else the worst."""
    return MEAN_SQNR if all(MEAN_SQNR in v.summary for v in views) else WORST_SQNR


def ascending(key: str) -> bool:
    """True if less of the key is better."""
    return key not in (MEAN_SQNR, WORST_SQNR)


def differing(views: list[View]) -> tuple[str, ...]:
    """The knobs of KNOBS in which the runs differ."""
    return tuple(knob for knob in KNOBS if len({str(_knob(v, knob)) for v in views}) > 1)


def columns(views: list[View]) -> list[str]:
    """Columns of the table of runs, cost and its error first, then SQNR, then the knobs that differ."""
    logged = {key for v in views for key in v.summary}
    ranked = cost(views)
    keys = [ranked, *(key for key in (KL, PREDICTED, PERPLEXITY, sqnr(views)) if key != ranked)]
    shown = [f"summary:{name}" for key in keys for name in (key, f"{key}_se") if name in logged]
    return ["run:displayName", *shown, *(_accessor(knob) for knob in differing(views))]


def sections(views: list[View]) -> list[Section]:
    """The sections of a workspace, the first screen first."""
    first = Section("Cost", first_screen(views), True)
    lines = [Section(heading, panels, heading is LINES[0][1]) for heading, panels in by_layer(views)]
    return [section for section in (first, *lines, Section("Calibration", by_samples(views), False)) if section.panels]


def first_screen(views: list[View]) -> tuple[Panel, ...]:
    """Cost of each run, against SQNR, against the knobs, and which knob matters."""
    logged = {key for v in views for key in v.summary}
    ranked, quality = cost(views), sqnr(views)
    if ranked not in logged:
        return ()
    panels: list[Panel] = [Bar(NAMES[ranked][:1].upper() + NAMES[ranked][1:], metric=ranked)]
    if ranked != quality and quality in logged:
        panels.append(Scatter(f"{NAMES[ranked]}, against SQNR", log=True, x=quality, y=ranked))
    if {KL, PREDICTED} <= logged:
        panels.append(Scatter("Measured KL against predicted loss", log=True, log_x=True, x=PREDICTED, y=KL))
    if knobs := differing(views):
        keys = dict.fromkeys(key for key in (quality, PERPLEXITY, ranked) if key in logged)  # the cost is the last axis
        keys.pop(ranked)
        panels.append(Parallel("Settings and what they cost", ascending(ranked), knobs, (*keys, ranked)))
        panels.append(Importance("Which knob matters", metric=ranked))
    panels += [Bar(NAMES[key], metric=key) for key in (PERPLEXITY,) if key in logged]
    return tuple(panels)


def by_layer(views: list[View]) -> list[tuple[str, tuple[Panel, ...]]]:
    """Heading → a panel per site, the sites in the order of the data flow."""
    logged = {key for v in views for values in v.layers.values() for key in values}
    sites = dict.fromkeys(row["site"] for v in views for row in v.rows)
    headed: list[tuple[str, tuple[Panel, ...]]] = []
    for column, heading, log, quantized in LINES:
        keys = [f"{site}/{column}" for site in sites if not quantized or site in registry.quantized()]
        if column == "loss":
            keys = ["predicted/loss", *keys]  # of all quantized sites of a layer
        lines = tuple(Line(_title(key), log, key) for key in keys if key in logged)
        if lines:
            headed.append((heading, lines))
    return headed


def by_samples(views: list[View]) -> tuple[Panel, ...]:
    """Errors over the number of samples, of cells whose calibration stopped by a tolerance."""
    logged = {key for v in views for row in v.looks for key in row}
    return tuple(Line(title, metric=key, over="samples") for key, title in LOOKS if key in logged)


def ranking(views: list[View], names: list[str]) -> str:
    """The table of runs as Markdown, the best first."""
    ranked = cost(views)
    logged = {key for v in views for key in v.summary}
    shown = [ranked, *(key for key in (PREDICTED, KL, PERPLEXITY, sqnr(views)) if key in logged and key != ranked)]
    worst = float("inf")
    sign = 1 if ascending(ranked) else -1
    order = sorted(range(len(views)), key=lambda n: sign * views[n].summary.get(ranked, sign * worst))
    lines = [["setting", *(NAMES[key] for key in shown)], ["---", *("---:" for _ in shown)]]
    for n in order:
        lines.append([names[n].replace("|", "\\|"), *(_with_error(views[n].summary, key) for key in shown)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _with_error(summary: dict[str, Any], key: str) -> str:
    if key not in summary:
        return "–"
    value, error = summary[key], summary.get(f"{key}_se")
    if not error:
        return f"{value:.4g}"
    decimals = max(0, -math.floor(math.log10(error)))  # to the first digit of the error
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def _title(key: str) -> str:
    site = key.rsplit("/", 1)[0]
    return "all quantized sites" if site == "predicted" else site


def _knob(shown: View, knob: str) -> Any:
    name, _, rest = knob.partition(".")
    return shown.config[name][rest]


def _accessor(knob: str) -> str:
    name, _, rest = knob.partition(".")
    return f"config:{name}.value.{rest}"
