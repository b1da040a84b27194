"""The tables of an answer: what was concluded, then what it was concluded from."""

from __future__ import annotations

import math

from sweep.compare.answer import SHOWN, Answer
from sweep.compare.query.comparison import Comparison
from sweep.compare.tables.pivots import (
    alpha_table,
    layer_table,
    minmax_table,
    one_per_model,
    ratio_table,
    structure_table,
)
from sweep.compare.tables.table import Table, Value, columns


def tables(a: Answer) -> list[Table]:
    """Every table that applies, verdicts first."""
    runs, site = a.runs, a.site
    found = [verdict_table(a), advice_table(a), *format_tables(a), choice_table(a)]
    found += [alpha_table(runs, v.contrast, site) for v in a.verdicts if v.contrast.knob == "alpha"][:6]
    found += [minmax_table(runs, *pair, site) for pair in _minmax_pairs(runs)[:6]]
    with_x = [n for n in one_per_model(runs) if runs.listed[n].granularity == "tensor"]
    found += [ratio_table(runs, with_x)] if with_x else []
    found += [silu_table(a), structure_table(runs), convergence_table(a)]
    found += [layer_table(runs, a.metric, site, a.shown), cell_table(a), problem_table(a)]
    found += [table for reply in a.seed for table in reply.tables]
    return [table for table in found if table.rows]


def verdict_table(a: Answer) -> Table:
    rows: list[tuple[Value, ...]] = []
    for v in a.verdicts:
        known = [e for e in v.evidence if not math.isnan(e.overall[0])]
        best = max(known, key=lambda e: e.overall[0], default=None)
        rows.append(
            (
                v.contrast.knob,
                v.contrast.context,
                v.verdict,
                v.contrast.values[v.contrast.baseline],
                v.contrast.value(best.other) if best else None,
                *(best.overall if best else (None, None)),
                v.row.db if v.row else None,
                v.row.db_se if v.row else None,
                f"layer {v.row.layer} {v.row.site}" if v.row else None,
                v.row.value if v.row else None,
                v.row.p if v.row else None,
                v.counted,
                v.places,
                v.tests,
                "paired" if v.paired else "independent" if v.evidence else None,
                v.folds or None,
                v.rule,
            )
        )
    return Table(
        "verdicts",
        "Verdicts",
        "mean dB: SQNR against the baseline, averaged over layers and deployed sites, of the best other value. "
        "Largest: "
        "the largest difference at one layer and site, p corrected for all tests of the report.",
        columns(
            "knob | context | verdict | baseline | best other | mean dB:gain | ± dB:db | largest dB:gain | "
            "± largest:db | where | with | p:p | places that matter:count | places:count | tests:count | errors | "
            "folds:count | rule"
        ),
        tuple(rows),
    )


def advice_table(a: Answer) -> Table:
    rows = [
        (
            one.context,
            rank,
            r.setting,
            r.sqnr_db,
            -r.loss_db,
            r.loss_se,
            "best" if rank == 1 else "as good" if r.tied else "",
        )
        for one in a.advice
        for rank, r in enumerate(one.runners[:SHOWN], 1)
    ]
    return Table(
        "settings",
        "Settings, best first",
        "SQNR averaged over layers and the sites a deployment quantizes. As good: within error, or within 0.1 dB.",
        columns("context | rank:count | setting | mean SQNR dB:db | against best dB:gain | ±:db | verdict"),
        tuple(rows),
    )


def format_tables(a: Answer) -> list[Table]:
    """Settings x formats, one table per model and granularity that has several formats."""
    found = []
    grids: dict[tuple[str, str], dict[str, dict[str, Value]]] = {}
    for runner in (r for one in a.advice for r in one.runners):
        cell = a.runs.listed[runner.cell]
        grid = grids.setdefault((cell.model, cell.granularity), {})
        grid.setdefault(runner.setting, {})[cell.format] = runner.sqnr_db
    for (model, granularity), grid in grids.items():
        formats = sorted({name for row in grid.values() for name in row})
        if len(formats) > 1:
            found.append(
                Table(
                    "formats",
                    f"Settings and formats: {model}, {granularity}",
                    "Mean SQNR, dB, over layers and the sites a deployment quantizes.",
                    columns(" | ".join(["setting", *(f"{name}:db" for name in formats)])),
                    tuple((setting, *(row.get(name) for name in formats)) for setting, row in sorted(grid.items())),
                )
            )
    return found


def choice_table(a: Answer) -> Table:
    rows = [(one.context, c.layer, c.setting, c.sqnr_db, -c.loss_db) for one in a.advice for c in one.layers]
    return Table(
        "choices",
        "Best setting of every layer",
        "Loss: what the best global setting loses in this layer against the layer's own best.",
        columns("context | layer:count | best setting | SQNR dB:db | global choice dB:gain"),
        tuple(rows),
    )


def silu_table(a: Answer) -> Table:
    return Table(
        "silu",
        "What SiLU does, and what the ratio is",
        "Over layers and settings. Gain: scale after / before SiLU. Ratio: activation / weight scale, no gain.",
        columns(
            "model | site | rows:count | gain min:number | gain mean:number | gain max:number | ratio min:number | "
            "ratio max:number | ratio above 1:count | gain above 1:count"
        ),
        tuple(
            (
                s.model,
                s.site,
                s.rows,
                s.gain_low,
                s.gain_mean,
                s.gain_high,
                s.ratio_low,
                s.ratio_high,
                s.ratio_above_one,
                s.expanded,
            )
            for s in a.silu
        ),
    )


def convergence_table(a: Answer) -> Table:
    return Table(
        "data",
        "How well the scales are known",
        "Half-width of 95 % confidence of a scale, relative to it. Open: places where it exceeds 1.2 %, worth about "
        "0.1 dB where rounding dominates. Drift: largest change from half of the samples to all.",
        columns(
            "cell | samples:count | median:error | worst:error | where | open:count | places:count | drift:change | at"
        ),
        tuple(
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
    means = dict(a.runs.sql("SELECT cell, avg(sqnr_db) FROM deployed WHERE isfinite(sqnr_db) GROUP BY cell"))
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
                means.get(n),
                e.get("perplexity"),
                e.get("perplexity_se"),
                e.get("kl"),
                str(c.path),
            )
        )
    return Table(
        "cells",
        "Cells",
        "Calibration: cells of one letter observed the same model on the same tokens.",
        columns(
            "label | name | model | weights | method | alpha:plain | format | granularity | calibration | data | "
            "samples x tokens | dtype | mean SQNR dB:db | perplexity:number | ±:number | KL:scale | path"
        ),
        tuple(rows),
    )


def problem_table(a: Answer) -> Table:
    return Table(
        "problems",
        "Not compared",
        "Directories that look like cells and could not be used.",
        columns("path | kind | reason"),
        tuple((str(p.path), p.kind, p.reason) for p in a.runs.problems),
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
