"""An answer in words. Every sentence is made of numbers that a table beside it shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sweep.compare.analysis.cost import NEGLIGIBLE_NATS, SQNR
from sweep.compare.analysis.effects import Effect
from sweep.compare.analysis.forecast import Forecast
from sweep.compare.analysis.rules import DEAD, MATTERS, NEGLIGIBLE, NEGLIGIBLE_DB, NOISE, RULES, UNEXAMINED
from sweep.compare.analysis.significance import FAMILY
from sweep.compare.analysis.silu_gain import Silu
from sweep.compare.analysis.verdicts import Verdict
from sweep.compare.query.comparison import Comparison
from sweep.compare.render.numbers import nats
from sweep.compare.tables.table import Column
from sweep.quantization.sites import SITES, quantized


def plus(value: float, error: float = float("nan"), digits: int = 2) -> str:
    """`+2.15 ± 0.01`, without the error where it is unknown; an error too small to show is an upper bound."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    if np.isnan(error):
        return text
    least = 10.0**-digits
    return f"{text} ± {error:.{digits}f}" if error >= least / 2 or error == 0 else f"{text} ± <{least:.{digits}f}"


def verdict(v: Verdict) -> str:
    """One or two sentences on the knob's effect here: its direction, size and place."""
    q = v.contrast
    base = q.values[q.baseline]
    if v.verdict == DEAD:
        return (
            f"{q.knob} is a dead knob here: {', '.join(q.values)} give the same scale, bit for bit, at every layer "
            f"and site ({v.tests or 'all'} rows compared)."
        )
    if v.verdict == UNEXAMINED:
        return f"{len(q.cells)} values differ; narrow the comparison with a filter to test them."
    known = [(q.value(e.other), *e.overall) for e in v.evidence if not np.isnan(e.overall[0])]
    blind = max((e.blind for e in v.evidence), default=0)
    if not known and not blind:
        return "The cells have no layer and site in common that could be compared."
    text = []
    if v.verdict == MATTERS:
        text += [_extremes(v, base, known)] if known or v.nats else []
        if v.row and v.row.p <= FAMILY:
            text.append(f"Largest at one place: {place(v.row)}.")
        judged = len(q.pairs) - (len(v.unknown) if v.nats else 0)
        if len(v.evidence) < judged:
            text.append(f"Tested: the {len(v.evidence)} of {judged} values that differ most.")
    elif v.verdict == NEGLIGIBLE:
        moved = max((abs(e.rows.scale[np.isfinite(e.rows.scale)]).max() for e in v.evidence), default=0.0)
        none = f"no site's SQNR moves by {NEGLIGIBLE_DB} dB (at most {v.bound:.2f} dB, error included)"
        if v.nats:
            most = max(n.reach for n in v.nats)
            none = f"{v.kind} by less than {NEGLIGIBLE_NATS} nats per token (at most {most:.2g}, error included)"
        text.append(f"Scales differ beyond their error, by up to {np.expm1(moved):.2%}, but {none}.")
    elif v.verdict == NOISE:
        text.append(f"Against {base}, no scale moves by more than its error explains.")
        if not np.isnan(v.bound):
            text.append(f"A mean effect above {v.bound:.2f} dB is excluded at every site (95 %).")
    elif v.folds < 2:
        text.append("There is a difference, and no replicates to tell an error from.")
    elif v.nats:
        reach = np.max([n.reach for n in v.nats])
        bounded = f"to differ by up to {reach:.1g} nats per token (95 %)" if reach == reach else "to differ by any size"
        text.append(f"The data leaves room for {v.kind} {bounded}.")
    elif not any(e.blind for e in v.evidence):
        text.append(f"The data leaves room for effects of up to {v.bound:.2f} dB at a site (95 %).")
    if v.silent:
        acting = sorted({str(s) for e in v.evidence for s in e.rows.site} - set(v.silent))
        few = len(v.silent) <= len(acting)
        text.append(f"Exactly no change at {', '.join(v.silent)}." if few else f"It acts only at {', '.join(acting)}.")
    if blind:
        text.append(f"At {blind} places scales differ and nothing is known of the SQNR (minmax of groups has none).")
    if not v.paired:
        text.append("Errors taken as independent: the cells do not share a calibration.")
    text += [_perplexity(v, base)] if v.perplexity else []
    text += [_unknown(v, base)] if v.unknown else []
    return " ".join(text)


def _unknown(v: Verdict, base: str) -> str:
    """Values without a verdict, or why SQNR decides though some costs are known."""
    if v.kind != SQNR:
        return f"Not judged, since {v.kind} of it is unknown: {', '.join(v.unknown)}."
    if base in v.unknown:
        return f"SQNR decides, since the cost of {base}, the baseline, is unknown; --baseline names another."
    return f"SQNR decides, since the cost of {len(v.unknown)} of {len(v.contrast.values)} values is unknown."


def _extremes(v: Verdict, base: str, known: list[tuple[str, float, float]]) -> str:
    """The best and the worst value, the baseline among them: in nats where these decide, dB beside them."""
    db = {base: (0.0, 0.0)} | {value: (mean, se) for value, mean, se in known}
    if v.nats:
        more = {base: 0.0} | {n.value: n.more.value for n in v.nats}
        written = {n.value: f"{nats(n.more, signed=True)} nats per token" for n in v.nats}
        beside = {
            value: f"{written[value]} ({plus(*db[value])} dB)" if value in db else written[value] for value in written
        }
        best, worst = min(more, key=lambda k: more[k]), max(more, key=lambda k: more[k])
        what = v.kind
    else:
        beside = {value: f"{plus(*pair)} dB" for value, pair in db.items()}
        best, worst = max(db, key=lambda k: db[k][0]), min(db, key=lambda k: db[k][0])
        what = "mean SQNR"
    if len(beside) - (base in beside) == 1:
        (other,) = set(beside) - {base}
        return f"{other} is {'better' if best == other else 'worse'} than {base}: {what} {beside[other]}."

    def said(value: str) -> str:
        return f"{base}, the baseline" if value == base else f"{value}, {beside[value]}"

    return f"By {what} against {base}, best is {said(best)}; worst is {said(worst)}."


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
    """The meaning of the numbers and the measurements that are missing."""
    evaluated = sum(1 for c in runs.listed if c.evaluation and c.evaluation.get("perplexity") is not None)
    base = "SQNR is the error of the activations at their site, a proxy for what the model loses."
    if not evaluated:
        return f"{base} Perplexity was not measured in any of these cells."
    return f"{base} Perplexity was measured in {evaluated} of {len(runs.listed)} cells; the settings' table has it."


def silu(gains: Sequence[Silu]) -> list[str]:
    """Per model: the range after SiLU against the range before, and why the ratio says nothing about it."""
    text = []
    for s in gains:
        if s.site != "x_conv_out":
            continue
        if not s.holds:
            text.append(
                f"{s.model}: SiLU gain is above 1 in {s.expanded} of {s.rows} rows, up to {s.gain_high:.4f}. No "
                "quantile can do that: the tables are inconsistent."
            )
            continue
        mean = Column("gain", "number").show_with(s.gain_mean, s.gain_mean_se)
        text.append(
            f"{s.model}: SiLU never expands the range of x: gain {s.gain_low:.2f} to {s.gain_high:.3f} (mean "
            f"{mean}). The ratio, {s.ratio_low:.1f} to {s.ratio_high:.1f}, divides an activation scale by a "
            f"weight scale; above 1 in {s.ratio_above_one} of {s.rows} rows, it shows no expansion in any."
        )
    return text


def forecast(f: Forecast) -> str:
    """The number of samples that suffice and the time to compute them; `command` starts it."""
    which = "all scales" if f.share == 1 else f"{f.share:.0%} of the scales"
    if f.beyond:
        return f"it takes more than {f.samples:,} samples to settle {which}; these cannot tell how many"
    time = "" if f.seconds is None else f", about {_duration(f.seconds)} here"
    return f"{f.samples:,} samples would settle {which} (95 %: {f.low:,} to {f.high:,}): {f.more:,} more{time}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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
            "six families (SQNR of site means over layers, SQNR of single (layer, site) places, scales of site "
            f"means, losses to the recommended setting, perplexity, cost), each corrected by Holm to {FAMILY:.2%} over "
            "the whole report: the chance that noise is called an effect anywhere is at most 5 %.",
        ),
        (
            "cost",
            "nats per token of KL(unquantized || quantized), all quantized sites at once: measured on held-out text "
            "where every cell of a context was evaluated there; else predicted, half the sum of squared gradients "
            "times squared rounding errors, a lower estimate; else whichever of the two at least half of the cells "
            "have, a knob's baseline among them, the others being neither ranked nor judged; else unknown, and SQNR "
            "ranks. "
            f"{NEGLIGIBLE_NATS} nats are 0.1 % of perplexity, the last digit that papers print of one",
        ),
        ("quantized sites", f"{', '.join(quantized())}: what a deployment keeps in few bits between its kernels"),
        ("sites", "; ".join(f"{site.name}: {site.meaning}" for site in SITES.values())),
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
