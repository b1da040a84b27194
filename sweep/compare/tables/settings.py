"""The tables of settings: ranked, and side by side with the formats."""

from __future__ import annotations

from sweep.compare.analysis.cost import NEGLIGIBLE_NATS, SQNR
from sweep.compare.analysis.mean_sqnr import mean_sqnr
from sweep.compare.analysis.rules import NEGLIGIBLE_DB
from sweep.compare.answer import FEW as MOST
from sweep.compare.answer import Answer
from sweep.compare.query.labels import told_apart
from sweep.compare.tables.table import Table, Value, with_error


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
                    *with_error(r.measured),
                    *with_error(r.predicted),
                    *with_error(r.more),
                    r.sqnr,
                    r.sqnr_se,
                    None if r.lost is None else -r.lost.value,
                    None if r.lost is None else r.lost.se,
                    r.clipped,
                    *with_error(r.perplexity),
                )
            )
    return Table.of(
        "settings",
        "Settings, best first",
        "Ranked by the measure that all settings of a context share, or at least half of them: KL measured on held-out "
        "text, else predicted loss, both in nats per token; else mean SQNR over layers and quantized sites, which says "
        f"nothing certain of the model. Tied: within error, or within {NEGLIGIBLE_NATS} nats or {NEGLIGIBLE_DB} dB. "
        "More: than the best one.",
        "context | rank:count | setting | verdict | ranked by | KL nats:nats | ± KL:nats | predicted nats:nats | "
        "± predicted:nats | more nats:nats | ± more:nats | mean SQNR dB:db | ± SQNR dB:db | against best dB:gain | "
        "± dB:db | clipped:share | perplexity:number | ± perplexity:number",
        rows,
    )


def format_tables(a: Answer) -> list[Table]:
    """Settings x formats, one table per model, calibration and granularity with several formats: the cost if it ranks
    them, see `Costs.ranked`, else the mean SQNR; each with its error, the best of a format marked."""
    grids: dict[tuple[str, ...], dict[tuple[str, str], int]] = {}
    for group in a.ranking:
        for row in group.rows:
            cell = a.runs.listed[row.cell]
            key = (cell.model, cell.granularity, *cell.calibration)
            grids.setdefault(key, {})[cell.setting, cell.format] = row.cell
    made = []
    told = told_apart(a.runs.listed)
    for (model, granularity, *_), at in grids.items():
        formats = sorted({format for _, format in at})
        if len(formats) < 2 or len(at) > MOST:
            continue
        kind, ranked = a.costs.ranked(list(at.values()))
        known_costs = a.costs.values(kind) if kind != SQNR else mean_sqnr(a.runs, ranked)
        values = {n: known_costs[n] for n in ranked if n in known_costs}
        data = f", {told[ranked[0]]}" if told[ranked[0]] else ""
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
                values_here += with_error(value)
            rows.append((*values_here, ", ".join(format for format in formats if best[format] == setting)))
        unit = "db" if kind == SQNR else "nats"
        what = (
            "Mean SQNR, dB, over layers and quantized sites"
            if kind == SQNR
            else f"{kind[0].upper()}{kind[1:]}, nats per token"
        )
        made.append(
            Table.of(
                "formats",
                f"Settings and formats: {model}{data}, {granularity}",
                f"{what}; ± is one standard error.",
                " | ".join(["setting", *(f"{f}:{unit} | ± {f}:{unit}" for f in formats), "best in"]),
                rows,
            )
        )
    return made
