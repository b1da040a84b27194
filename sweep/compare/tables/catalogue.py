"""The tables of an answer: the conclusions, then the numbers behind them."""

from __future__ import annotations

from sweep.compare.analysis.layer_choice import choices
from sweep.compare.analysis.mean_sqnr import mean_sqnr
from sweep.compare.answer import Answer
from sweep.compare.query.comparison import Comparison
from sweep.compare.tables.chosen import one_per_model
from sweep.compare.tables.layers import alpha_table, layer_table, minmax_table, ratio_table
from sweep.compare.tables.sensitivity import sensitivity_table
from sweep.compare.tables.settings import format_tables, settings_table
from sweep.compare.tables.structure import structure_table
from sweep.compare.tables.table import Table, Value, with_error
from sweep.compare.tables.verdicts import verdict_table


def tables(a: Answer) -> list[Table]:
    """Every table that applies, verdicts first."""
    runs, site = a.runs, a.site
    listed = [verdict_table(a), settings_table(a), *format_tables(a), choice_table(a)]
    listed += [alpha_table(runs, v.contrast, site) for v in a.verdicts if v.contrast.knob == "alpha"][:6]
    listed += [minmax_table(runs, *pair, site) for pair in _minmax_pairs(runs)[:6]]
    with_x = [n for n in one_per_model(runs) if runs.listed[n].granularity == "tensor"]
    listed += [ratio_table(runs, with_x)] if with_x else []
    grouped = any(cell.granularity != "tensor" for cell in runs.listed)
    listed += [silu_table(a), *([structure_table(runs)] if grouped else []), convergence_table(a), sensitivity_table(a)]
    listed += [layer_table(runs, a.metric, site, a.shown), cell_table(a), problem_table(a)]
    listed += [table for reply in a.seed for table in reply.tables]
    return [table for table in listed if table.rows]


def choice_table(a: Answer) -> Table:
    chosen = [(one.context, c) for one in a.advice for c in choices(a.runs, one).layers]
    rows = [(text, c.layer, c.setting, c.sqnr_db, c.sqnr_se, -c.loss_db, c.loss_se) for text, c in chosen]
    return Table.of(
        "choices",
        "Best setting of every layer, by SQNR",
        "Loss: what the best global setting loses in this layer against the layer's own best. The best of several is "
        "chosen by the same data: of a loss within twice its error nothing is known. SQNR is a proxy, which mse wins "
        "by construction.",
        "context | layer:count | best setting | SQNR dB:db | ± SQNR:db | loss dB:gain | ± loss:db",
        rows,
    )


def silu_table(a: Answer) -> Table:
    return Table.of(
        "silu",
        "What SiLU does, and what the ratio is",
        "Over layers and settings. Gain: scale after / before SiLU. Ratio: activation / weight scale, no gain. The "
        "error of a minimum or maximum is of that row; which row it is, noise may decide. No quantile's gain exceeds "
        "1, however far its error reaches.",
        "model | site | rows:count | gain min:number | ± gain min:number | gain mean:number | ± gain mean:number | "
        "gain max:number | ± gain max:number | ratio min:number | ± ratio min:number | ratio max:number | "
        "± ratio max:number | ratio above 1:count | gain above 1:count",
        (
            (
                s.model,
                s.site,
                s.rows,
                *(s.gain_low, s.gain_low_se),
                *(s.gain_mean, s.gain_mean_se),
                *(s.gain_high, s.gain_high_se),
                *(s.ratio_low, s.ratio_low_se),
                *(s.ratio_high, s.ratio_high_se),
                s.ratio_above_one,
                s.expanded,
            )
            for s in a.silu
        ),
    )


def convergence_table(a: Answer) -> Table:
    return Table.of(
        "data",
        "How well the scales are known",
        "Half-width of 95 % confidence of a scale, relative to it. Open: places where it exceeds 1.2 %, worth about "
        "0.1 dB where rounding dominates. Drift: largest change from half of the samples to all. Quantized "
        "sites only. Of a maximum (minmax), which does not average, the error is all that the folds scatter.",
        "cell | samples:count | median:error | worst:error | where | open:count | places:count | drift:change | at",
        (
            (
                a.runs.labels[c.cell],
                c.samples,
                c.error,
                c.worst_error,
                f"layer {c.worst_layer} {c.worst_site}",
                c.open_rows,
                c.rows,
                c.drift,
                f"layer {c.drift_layer} {c.drift_site}",
            )
            for c in a.convergence
        ),
    )


def cell_table(a: Answer) -> Table:
    letters = dict(a.runs.sql("SELECT cell, calibration FROM cells"))
    means = mean_sqnr(a.runs, a.shown)
    rows: list[tuple[Value, ...]] = []
    for n in a.shown:
        c, e = a.runs.listed[n], a.runs.listed[n].evaluation or {}
        rows.append(
            (
                a.runs.labels[n],
                c.name,
                c.model,
                c.weights,
                c.method,
                c.alpha,
                c.format,
                c.granularity,
                letters[n],
                c.data,
                c.sizes,
                c.dtype,
                *with_error(means.get(n)),
                e.get("perplexity"),
                e.get("perplexity_se"),
                e.get("kl"),
                e.get("kl_se"),
                str(c.path),
            )
        )
    return Table.of(
        "cells",
        "Cells",
        "Calibration: cells of one letter observed the same model on the same tokens.",
        "label | name | model | weights | method | alpha:plain | format | granularity | calibration | data | "
        "samples x tokens | dtype | mean SQNR dB:db | ± SQNR dB:db | perplexity:number | ± perplexity:number | "
        "KL nats:nats | ± KL:nats | path",
        rows,
    )


def problem_table(a: Answer) -> Table:
    return Table.of(
        "problems",
        "Not compared",
        "Directories that look like cells and could not be used.",
        "path | kind | reason",
        ((str(p.path), p.kind, p.reason) for p in a.runs.problems),
    )


def _minmax_pairs(runs: Comparison) -> list[tuple[int, int]]:
    """(minmax, its nearest percentile to 0.9995) for every context that has both."""
    contexts: dict[tuple[str, ...], dict[str, tuple[float, int]]] = {}
    for n, c in enumerate(runs.listed):
        here = contexts.setdefault((c.model, *c.calibration, c.format, c.granularity), {})
        distance = abs((c.alpha or 0.9995) - 0.9995)
        if c.method in ("minmax", "percentile") and distance < here.get(c.method, (9.0, -1))[0]:
            here[c.method] = (distance, n)
    return [(h["minmax"][1], h["percentile"][1]) for h in contexts.values() if len(h) == 2]
