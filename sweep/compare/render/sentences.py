"""What was found, in words. Every sentence is made of numbers that a table beside it shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sweep.compare.analysis.convergence import ENOUGH, Convergence
from sweep.compare.analysis.recommend import Advice
from sweep.compare.analysis.silu_gain import Silu
from sweep.compare.analysis.verdicts import (  # fmt: skip
    DEAD,
    MATTERS,
    NEGLIGIBLE,
    NEGLIGIBLE_DB,
    NOISE,
    RULES,
    UNEXAMINED,
    Effect,
    Verdict,
)
from sweep.compare.query.comparison import Comparison


def plus(value: float, error: float = float("nan"), digits: int = 2) -> str:
    """`+2.15 ± 0.01`, without the error where it is unknown; an error too small to show is an upper bound."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    if np.isnan(error):
        return text
    least = 10.0**-digits
    return f"{text} ± {error:.{digits}f}" if error >= least / 2 or error == 0 else f"{text} ± <{least:.{digits}f}"


def verdict(v: Verdict) -> str:
    """One or two sentences: what the knob does here, how much, where."""
    q = v.contrast
    base = q.values[q.baseline]
    if q.knob == "repeat":
        same = "agree bit for bit" if v.verdict == DEAD else "do not agree bit for bit"
        return f"{len(q.cells)} runs of the same cell {same}."
    if v.verdict == DEAD:
        return (
            f"{q.knob} is a dead knob here: {', '.join(q.values)} give the same scale, bit for bit, at every layer "
            f"and site ({v.tests or 'all'} rows compared)."
        )
    if v.verdict == UNEXAMINED:
        return f"{len(q.cells)} values differ; narrow the comparison with a filter to test them."
    known = [(q.value(e.other), *e.overall) for e in v.evidence if not np.isnan(e.overall[0])]
    if not known:
        return "The cells have no layer and site in common that could be compared."
    best = max(known, key=lambda k: k[1])
    worst = min(known, key=lambda k: k[1])
    text = []
    if v.verdict == MATTERS:
        if best[0] == worst[0]:
            text.append(f"{best[0]} changes the mean SQNR by {plus(*best[1:])} dB against {base}.")
        else:
            text.append(
                f"Best is {best[0]}, {plus(*best[1:])} dB mean SQNR against {base}; worst is {worst[0]}, "
                f"{plus(*worst[1:])} dB."
            )
        if v.row:
            text.append(f"Largest at one place: {place(v.row)}.")
        if len(v.evidence) < len(q.pairs):
            text.append(f"Tested: the {len(v.evidence)} of {len(q.pairs)} values that differ most.")
    elif v.verdict == NEGLIGIBLE:
        moved = max((abs(e.rows.scale[np.isfinite(e.rows.scale)]).max() for e in v.evidence), default=0.0)
        text.append(
            f"Scales differ beyond their error, by up to {np.expm1(moved):.2%}, but no site's SQNR moves by "
            f"{NEGLIGIBLE_DB} dB (at most {v.bound:.2f} dB, error included)."
        )
    elif v.verdict == NOISE:
        text.append(f"Against {base}, no scale moves by more than its error explains.")
        if not np.isnan(v.bound):
            text.append(f"A mean effect above {v.bound:.2f} dB is excluded at every site (95 %).")
    elif v.folds < 2:
        text.append("There is a difference, and no replicates to tell an error from.")
    elif not any(e.blind for e in v.evidence):
        text.append(f"The data leaves room for effects of up to {v.bound:.2f} dB at a site (95 %).")
    if v.silent:
        acting = sorted({str(s) for e in v.evidence for s in e.rows.site} - set(v.silent))
        few = len(v.silent) <= len(acting)
        text.append(f"Exactly no change at {', '.join(v.silent)}." if few else f"It acts only at {', '.join(acting)}.")
    if blind := max((e.blind for e in v.evidence), default=0):
        text.append(f"At {blind} places scales differ and nothing is known of the SQNR (minmax of groups has none).")
    if not v.paired:
        text.append("Errors taken as independent: the cells do not share a calibration.")
    text += [_perplexity(v, base)] if v.perplexity else []
    return " ".join(text)


def place(e: Effect) -> str:
    """`−29.67 ± 0.02 dB at layer 3, out_proj_in, with 0.9`."""
    where = e.site if e.layer is None else f"layer {e.layer}, {e.site}"
    return f"{plus(e.db, e.db_se)} dB at {where}, with {e.value}"


def _perplexity(v: Verdict, base: str) -> str:
    others = [p for p in v.perplexity if p.value != base]
    worst = max(others, key=lambda p: abs(p.difference))
    sure = "beyond" if worst.beyond else "within"
    digits = max(2, 1 - int(np.floor(np.log10(worst.se)))) if worst.se > 0 else 2  # two of the error
    known = "" if worst.texts else " (taken as independent: the scores text by text are not at hand)"
    size = plus(worst.difference, worst.se, digits)
    return f"Perplexity against {base}: {size} with {worst.value}, {sure} its error{known}."


def measured(runs: Comparison) -> str:
    """What the numbers are, and what nobody measured."""
    evaluated = sum(1 for c in runs.listed if c.evaluation and c.evaluation.get("perplexity") is not None)
    base = "SQNR is the error of the activations at their site, a proxy for what the model loses."
    if not evaluated:
        return f"{base} Perplexity was not measured in any of these cells."
    if evaluated < len(runs.listed):
        return f"{base} Perplexity was measured in {evaluated} of {len(runs.listed)} cells."
    return f"{base} Perplexity was measured in every cell."


def advice(a: Advice) -> str:
    """Which setting, by how much, and what one choice for all layers costs."""
    best, second = a.best, a.runners[1]
    ties = [r.setting for r in a.runners[1:] if r.tied]
    text = [f"Take {best.setting} for {a.context}: mean SQNR {best.sqnr_db:.2f} dB."]
    if a.unranked:
        text.append(f"Not ranked, since its SQNR is not known everywhere: {', '.join(a.unranked)}.")
    if ties:
        text.append(
            f"{', '.join(ties)} {'is' if len(ties) == 1 else 'are'} as good within error or {NEGLIGIBLE_DB} dB."
        )
    else:
        text.append(f"Next best is {second.setting} ({plus(-second.loss_db, second.loss_se)} dB).")
    if a.settings_by_layer == 1:
        text.append("It is the best in every layer; ")
    else:
        text.append(
            f"One choice for all layers loses {a.layer_loss_db:.2f} dB on average against the best one for each, "
            f"at most {a.worst_layer.loss_db:.2f} dB (layer {a.worst_layer.layer}); "
        )
    text[-1] += f"choosing per layer and site would gain {a.site_loss_db:.2f} dB."
    if best.setting == "mse":
        text.append("mse minimises this very error on this very text: its lead holds by construction.")
    if a.by_perplexity:
        agree = "agrees" if a.by_perplexity == best.setting else "disagrees"
        text.append(f"Perplexity {agree}: {a.by_perplexity} is lowest.")
    return " ".join(text)


def silu(found: Sequence[Silu]) -> list[str]:
    """Per model: what SiLU does to the range, and why the ratio says nothing about it."""
    text = []
    for s in found:
        if s.site != "x_conv_out":
            continue
        if not s.holds:
            text.append(
                f"{s.model}: SiLU gain is above 1 in {s.expanded} of {s.rows} rows, up to {s.gain_high:.4f}. No "
                "quantile can do that: the tables are inconsistent."
            )
            continue
        text.append(
            f"{s.model}: SiLU never expands the range of x: gain {s.gain_low:.2f} to {s.gain_high:.3f} (mean "
            f"{s.gain_mean:.2f}). The ratio, {s.ratio_low:.1f} to {s.ratio_high:.1f}, divides an activation scale by a "
            f"weight scale; above 1 in {s.ratio_above_one} of {s.rows} rows, it shows no expansion in any."
        )
    return text


def data(c: Convergence, label: str) -> str:
    """Whether more calibration data would help."""
    worst = f"worst ±{c.worst_error:.1%} at layer {c.worst_layer}, {c.worst_site}"
    if c.enough:
        return (
            f"{label}: {c.samples} samples are enough. Every scale is known to ±{ENOUGH:.1%} or better "
            f"(median ±{c.error:.2%}, {worst}; 95 %): worth less than {NEGLIGIBLE_DB} dB where rounding dominates."
        )
    return (
        f"{label}: more data would settle {c.open_rows} of {c.rows} scales, which {c.samples} samples do not tell to "
        f"±{ENOUGH:.1%} (a step off by that costs about {NEGLIGIBLE_DB} dB where rounding dominates): median "
        f"±{c.error:.2%}, {worst} (95 %)."
    )


def rules() -> list[tuple[str, str]]:
    """Definitions, for the end of a report."""
    return [
        *RULES.items(),
        (
            "errors",
            "± is one standard error of the effect on other text of the same source, calibrated anew: of the scatter "
            "between folds, each at its own scale; of a maximum (minmax) and a coarse argmin (entropy) all of it, of "
            "what averages its K-th part. Student's t with 2 / (1.2 / K + 2 / (K − 1)) degrees of freedom for K folds "
            "(4.6 for 8), since differences of extremes scatter so. Paired (fold by fold) between cells that share a "
            "calibration, else independent. That of perplexity is over texts, for these very scales.",
        ),
        (
            "many tests",
            "five families (SQNR of site means over layers, SQNR of single (layer, site) places, scales of site "
            "means, losses to the recommended setting, perplexity), each corrected by Holm to 1 % over the whole "
            "report: the chance that noise is called an effect anywhere is at most 5 %.",
        ),
        (
            "SQNR",
            "10 log10(mean x² / mean (x − q(x))²) of the activations at a site. A difference counts only where "
            "the scales differ beyond their error too.",
        ),
        ("SiLU gain", "scale after SiLU / scale before it, same method and alpha; at most 1 for every quantile."),
        (
            "ratio",
            "mean activation scale after SiLU / scale of the conv1d weight slice of x. It compares an activation with "
            "a weight; above 1 is no expansion.",
        ),
    ]
