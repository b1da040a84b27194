"""The tables of an answer: what was concluded, then what it was concluded from."""

from __future__ import annotations

import math

from sweep.compare.analysis.cost import NEGLIGIBLE_NATS, SQNR, Estimate, known_sqnr, mean_sqnr
from sweep.compare.analysis.verdicts import NEGLIGIBLE_DB
from sweep.compare.answer import FEW as MOST
from sweep.compare.answer import Answer
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
    found = [verdict_table(a), settings_table(a), *format_tables(a), choice_table(a)]
    found += [alpha_table(runs, v.contrast, site) for v in a.verdicts if v.contrast.knob == "alpha"][:6]
    found += [minmax_table(runs, *pair, site) for pair in _minmax_pairs(runs)[:6]]
    with_x = [n for n in one_per_model(runs) if runs.listed[n].granularity == "tensor"]
    found += [ratio_table(runs, with_x)] if with_x else []
    grouped = any(cell.granularity != "tensor" for cell in runs.listed)
    found += [silu_table(a), *([structure_table(runs)] if grouped else []), convergence_table(a)]
    found += [layer_table(runs, a.metric, site, a.shown), cell_table(a), problem_table(a)]
    found += [table for reply in a.seed for table in reply.tables]
    return [table for table in found if table.rows]


def verdict_table(a: Answer) -> Table:
    rows: list[tuple[Value, ...]] = []
    for v in a.verdicts:
        base = v.contrast.values[v.contrast.baseline]
        known = {v.contrast.value(e.other): e.overall for e in v.evidence if not math.isnan(e.overall[0])}
        more = {n.value: n.more for n in v.nats}
        every = [base, *(more or known)] if more or known else []
        best = min(every, key=lambda x: _rank(x, more, known), default=None)
        worst = max(every, key=lambda x: _rank(x, more, known), default=None)
        rows.append(
            (
                v.contrast.knob,
                v.contrast.context,
                v.verdict,
                base,
                best,
                *_pair(more.get(best or "")),
                *known.get(best or "", (None, None)),
                worst,
                *_pair(more.get(worst or "")),
                *known.get(worst or "", (None, None)),
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
        "Best and worst are taken among all values, the baseline included, by cost where it is known, else by SQNR. "
        "Nats: per token more than the baseline. Mean dB: SQNR against the baseline, averaged over layers and "
        "quantized sites. Largest: the largest difference at one layer and site, p corrected for all tests of the "
        "report.",
        columns(
            "knob | context | verdict | baseline | best | best nats:nats | ± best nats:nats | best dB:gain | "
            "± best dB:db | worst | worst nats:nats | ± worst nats:nats | worst dB:gain | ± worst dB:db | "
            "largest dB:gain | ± largest:db | where | with | p:p | places that matter:count | places:count | "
            "tests:count | errors | "
            "folds:count | rule"
        ),
        tuple(rows),
    )


def _rank(value: str, more: dict[str, Estimate], known: dict[str, tuple[float, float]]) -> float:
    """The smaller the better; the baseline, of which neither is known, is 0."""
    if more:
        return more[value].value if value in more else 0.0
    return -known[value][0] if value in known else 0.0


def settings_table(a: Answer) -> Table:
    rows: list[tuple[Value, ...]] = []
    for group in a.ranking:
        for rank, r in enumerate(group.rows[:MOST], 1):
            rows.append(
                (
                    group.context,
                    rank,
                    r.setting,
                    r.verdict,
                    group.kind,
                    *_pair(r.measured),
                    *_pair(r.predicted),
                    *_pair(r.more),
                    r.sqnr,
                    None if r.lost is None else -r.lost.value,
                    None if r.lost is None else r.lost.se,
                    r.clipped,
                    *_pair(r.perplexity),
                )
            )
    return Table(
        "settings",
        "Settings, best first",
        "Ranked by the measure that all settings of a context share: KL measured on held-out text, else predicted "
        "loss, both in nats per token, else mean SQNR over layers and quantized sites, which says nothing certain of "
        f"the model. Tied: within error, or within {NEGLIGIBLE_NATS} nats or {NEGLIGIBLE_DB} dB. More: than the "
        "best one.",
        columns(
            "context | rank:count | setting | verdict | ranked by | KL nats:nats | ± KL:nats | predicted nats:nats | "
            "± predicted:nats | more nats:nats | ± more:nats | mean SQNR dB:db | against best dB:gain | ± dB:db | "
            "clipped:share | perplexity:number | ± perplexity:number"
        ),
        tuple(rows),
    )


def _pair(value: Estimate | None) -> tuple[Value, Value]:
    if value is None:
        return None, None
    return value.value, None if math.isnan(value.se) else value.se


def format_tables(a: Answer) -> list[Table]:
    """Settings x formats, one table per model and granularity that has several formats: the cost where it is known of
    all of them, else the mean SQNR; each with its error, the best of a format marked."""
    grids: dict[tuple[str, str], dict[tuple[str, str], int]] = {}
    for group in a.ranking:
        for row in group.rows:
            cell = a.runs.listed[row.cell]
            grids.setdefault((cell.model, cell.granularity), {})[cell.setting, cell.format] = row.cell
    found = []
    for (model, granularity), at in grids.items():
        formats = sorted({format for _, format in at})
        if len(formats) < 2 or len(at) > MOST:
            continue
        kind = a.costs.kind(at.values())
        values = a.costs.values(kind) if kind != SQNR else mean_sqnr(a.runs, list(at.values()))
        sign = -1.0 if kind == SQNR else 1.0
        best = {}
        for format in formats:
            known = {s: values[n].value for (s, f), n in at.items() if f == format and n in values}
            best[format] = min(known, key=lambda s, known=known: sign * known[s], default=None)  # type: ignore[misc]
        rows: list[tuple[Value, ...]] = []
        for setting in sorted({setting for setting, _ in at}):
            values_here: list[Value] = [setting]
            for format in formats:
                value = values.get(at.get((setting, format), -1))
                values_here += _pair(value)
            rows.append((*values_here, ", ".join(format for format in formats if best[format] == setting)))
        unit = "db" if kind == SQNR else "nats"
        what = (
            "Mean SQNR, dB, over layers and quantized sites"
            if kind == SQNR
            else f"{kind[0].upper()}{kind[1:]}, nats per token"
        )
        found.append(
            Table(
                "formats",
                f"Settings and formats: {model}, {granularity}",
                f"{what}; ± is one standard error.",
                columns(" | ".join(["setting", *(f"{f}:{unit} | ± {f}:{unit}" for f in formats), "best in"])),
                tuple(rows),
            )
        )
    return found


def choice_table(a: Answer) -> Table:
    rows = [(one.context, c.layer, c.setting, c.sqnr_db, -c.loss_db) for one in a.advice for c in one.layers]
    return Table(
        "choices",
        "Best setting of every layer",
        "Loss: what the best global setting loses in this layer against the layer's own best.",
        columns("context | layer:count | best setting | SQNR dB:db | loss dB:gain"),
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
        "0.1 dB where rounding dominates. Drift: largest change from half of the samples to all. Quantized "
        "sites only. Of a maximum (minmax), which does not average, the error is all that the folds scatter.",
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
    means = known_sqnr(a.runs)
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
