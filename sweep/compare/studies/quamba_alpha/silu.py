"""The seed on models, SiLU and layers: three conclusions it drew from one ratio."""

from __future__ import annotations

import math

from sweep.compare.analysis.layer_choice import choices
from sweep.compare.analysis.silu_gain import TOLERANCE
from sweep.compare.query.database import SCALES
from sweep.compare.studies.quamba_alpha.reply import (
    FAILS,
    HOLDS,
    MODERATE,
    OPEN,
    PARTLY,
    REASON,
    SITE,
    Case,
    Reply,
    unite,
)
from sweep.compare.tables.table import Table, columns

BEFORE = "x_conv_pre"
WEIGHT = "weight_scale"
ALIKE = 1.1  # scales within 10 % of one another could be one


def sizes(case: Case) -> Reply:
    """Whether model size matters: the ratio and the SiLU gain, by model."""
    question, said = (
        "Does the size of the model matter?",
        "The ratio is larger in the larger model (4.89 against 1.72 in layer 0), so SiLU expands more there; every "
        "model needs its own calibration.",
    )
    if len(case.models) < 2:
        return Reply(question, said, OPEN, "Not answered: one model here; for example model=130m,2.7b,8b.")
    listed = [case.runs.listed[n] for n in case.models]
    columns_read = "cell, avg(scale), avg(weight_scale), avg(ratio), avg(silu_gain), max(silu_gain)"
    means = {cell: rest for cell, *rest in case.at_site(columns_read, case.models, "GROUP BY cell")}
    rows = sorted(
        (
            (c.model, c.weights, c.geometry.get("n_layer"), c.geometry.get("d_model"), *means[n])
            for n, c in zip(case.models, listed, strict=True)
            if n in means
        ),
        key=lambda row: (row[2] or 0) * (row[3] or 0) ** 2,
    )
    if len(rows) < 2:
        return Reply(question, said, OPEN, f"Not answered: {SITE} is there for fewer than two models.")
    table = Table(
        "sizes",
        f"By model, smallest first: {SITE}",
        "Means over layers. Ratio: activation scale / weight scale. SiLU gain: scale after / before SiLU.",
        columns(
            "model | weights | layers:count | d_model:count | scale:scale | weight scale:scale | ratio:number | "
            "SiLU gain:number | largest gain:number"
        ),
        tuple(rows),
    )
    small, large = rows[0], rows[-1]
    gains = [row[8] for row in rows if row[8] is not None]
    expands = any(gain > 1 + TOLERANCE for gain in gains)
    apart = max(row[4] for row in rows) / min(row[4] for row in rows)
    text = (
        f"From {small[0]} to {large[0]} the mean ratio goes from {small[6]:.2f} to {large[6]:.2f} and the SiLU gain "
        f"from {small[7]:.2f} to {large[7]:.2f}; of the ratio's factor {large[6] / small[6]:.2f}, the weights' scale "
        f"makes {small[5] / large[5]:.2f} and the activations' {large[4] / small[4]:.2f}. The largest gain anywhere is "
        f"{max(gains):.3f}: SiLU expands in no model. Their scales differ by up to {apart:.2f} times"
        f"{', so each does need its own calibration.' if apart > ALIKE else '.'}"
    )
    if any(c.weights != "trained" for c in listed):
        text += " Random weights are among them: geometry without the statistics of a trained model."
    if len({c.tokens for c in listed}) > 1:
        text += " The models did not see the same tokens: size is not all that differs."
    verdict = HOLDS if expands else PARTLY if apart > ALIKE else FAILS
    return Reply(question, said, verdict, text, ("sizes",), (table,))


def expands(case: Case) -> Reply:
    """The meaning of the ratio, and the range before and after SiLU."""
    text, verdicts = [], []
    for s in case.silu:
        if s.site != SITE:
            continue
        verdicts.append(FAILS if s.holds else HOLDS)
        if s.holds:
            text.append(
                f"{s.model}: SiLU never expands the range: gain {s.gain_low:.2f} to {s.gain_high:.3f}, mean "
                f"{s.gain_mean:.2f}, while the ratio is {s.ratio_low:.2f} to {s.ratio_high:.2f}, above 1 in "
                f"{s.ratio_above_one} of {s.rows} rows."
            )
        else:
            text.append(
                f"{s.model}: gain above 1 in {s.expanded} of {s.rows} rows: no quantile can do that, check them."
            )
    text += [example for n in case.models if (example := _example(case, n))]
    if not verdicts:
        text = [f"Not answered: no cell with a quantile has {SITE}."]
    else:
        text.append(
            "The ratio divides an activation's scale by that of the conv1d weights (wx_scale is the largest weight / "
            "127, not a scale of the convolution's output). |silu(x)| <= |x| for every x, so no quantile can grow."
        )
    return Reply(
        "Does SiLU expand the range?",
        "Every ratio x_out_scale / wx_scale is above 1 (1.7 to 12.7), so it does.",
        unite(verdicts),
        " ".join(text),
        ("gain", "silu", "ratio"),
    )


def _example(case: Case, cell: int) -> str | None:
    """The row with the largest ratio, its three scales spelt out."""
    source = case.runs.source(SCALES, [cell])
    rows = case.runs.sql(
        f"SELECT o.layer, o.scale, o.weight_scale, o.ratio, p.scale, o.silu_gain FROM {source} o JOIN {source} p "
        "USING (layer) WHERE o.site = ? AND p.site = ? AND o.ratio IS NOT NULL AND o.silu_gain IS NOT NULL "
        "ORDER BY o.ratio DESC LIMIT 1",
        [SITE, BEFORE],
    )
    if not rows or case.runs.listed[cell].granularity != "tensor":
        return None
    layer, after, weight, ratio, before, gain = rows[0]
    return (
        f"{case.runs.listed[cell].model}, layer {layer}: {after:.4g} after SiLU / {weight:.4g} of the weights = ratio "
        f"{ratio:.2f}; {after:.4g} after / {before:.4g} before SiLU = gain {gain:.3f}."
    )


def layers(case: Case) -> Reply:
    """Differences between layers, and the loss by one scale or one alpha for all of them."""
    text, verdicts = [], []
    for s in case.subjects:
        cell = s.tensor.percentiles.get(MODERATE)
        rows = _layers(case, cell) if cell is not None else []
        if len(rows) < 2:
            text.append(f"{s.name}: not answered; needs percentile {MODERATE}, one scale per tensor, several layers.")
            continue
        low, high = min(rows, key=lambda r: r[1]), max(rows, key=lambda r: r[1])
        ratios, weights = [r[3] for r in rows if r[3]], [r[4] for r in rows if r[4]]
        spread = high[1] / low[1]
        verdicts.append(REASON if spread > ALIKE else FAILS)
        error = max((r[2] / r[1] for r in rows if r[2] is not None), default=math.nan)
        text.append(
            f"{s.name}: the scale of {SITE} differs {spread:.2f} times between layers, {low[1]:.4g} in layer {low[0]} "
            f"to {high[1]:.4g} in layer {high[0]} (standard errors up to {error:.2%}). With the largest for all, the "
            f"quietest layer would lose about {20 * math.log10(spread):.1f} dB to rounding."
        )
        if ratios and weights:
            text.append(
                f"The ratio differs {max(ratios) / min(ratios):.2f} times, the weights' scale in it "
                f"{max(weights) / min(weights):.2f} times by itself."
            )
    for one in case.advice:
        if one.context.endswith("tensor"):
            loss = choices(case.runs, one).layer_loss_db
            text.append(
                f"{one.context}: one setting ({one.best.setting}) for all layers loses {loss:.2f} dB on average "
                "against the best of each."
            )
    return Reply(
        "Do layers differ?",
        "Ratios go from 1.7 to 9.8, so SiLU acts little in one layer and much in others; no scale can be shared.",
        unite(verdicts),
        " ".join(text),
        ("scales", "ratio", "choices"),
    )


def _layers(case: Case, cell: int) -> list[tuple[int, float, float | None, float | None, float | None]]:
    """(layer, scale, its error, ratio, scale of the weights)."""
    return case.at_site(f"layer, scale, scale_se, ratio, {WEIGHT}", [cell], "AND scale > 0 ORDER BY layer")
