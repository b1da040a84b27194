"""The ranked table of the report's first screen."""

from __future__ import annotations

from typing import Any

from sweep.compare.analysis.cost import SQNR
from sweep.compare.analysis.ranking import AS_GOOD, BEST, UNRANKED
from sweep.compare.facts import Answer
from sweep.compare.render import html
from sweep.compare.render.numbers import decibels, nats, share

COSTS = (("measured", "KL, nats"), ("predicted", "predicted, nats"))  # per token


def ranking(a: Answer) -> dict[str, Any]:
    """Every setting with its cost, best first within its context; contexts named by the parts that differ."""
    ranked = [(group, rank, row) for group in a.ranking for rank, row in enumerate(group.rows, 1)]
    cells = [a.runs.listed[row.cell] for _, _, row in ranked]
    keys = ("model", "data", "sizes", "dtype", "format", "granularity")
    differing = [key for key in keys if len({getattr(c, key) for c in cells}) > 1]
    costs = [(name, head) for name, head in COSTS if any(getattr(row, name) for _, _, row in ranked)]
    heads = ["#", "setting", *differing, *(head for _, head in costs), "SQNR, dB", "clipped"]
    place = 2 + len(differing) + bool(costs)  # beside the cost that ranks, where a phone has room for it
    heads.insert(place, "verdict")
    rows = []
    for (_, rank, row), cell in zip(ranked[: html.MOST], cells, strict=False):
        shown = [html.Shown(str(rank), str(rank), "n"), html.Shown(cell.setting, cell.setting, "")]
        shown += [html.Shown(str(getattr(cell, key)), str(getattr(cell, key)), "") for key in differing]
        for name, _ in costs:
            e = getattr(row, name)
            text = "no prediction" if e is None and name == "predicted" else nats(e)
            raw = ("", "") if e is None else (html.raw(e.value), html.raw(e.se))
            shown.append(html.Shown(text, raw[0], "n", raw[1]))
        shown.insert(place, html.Shown(row.verdict, row.verdict, "tie" if row.verdict in (BEST, AS_GOOD) else ""))
        sqnr = html.Shown(decibels(row.sqnr, row.sqnr_se), html.raw(row.sqnr), "n", html.raw(row.sqnr_se))
        rows.append([*shown, sqnr, html.Shown(share(row.clipped), html.raw(row.clipped), "n")])
    kinds = list(dict.fromkeys(group.kind for group in a.ranking))
    proxy = " What a setting costs the network was not measured: SQNR is a proxy." if SQNR in kinds else ""
    unranked = any(row.verdict == UNRANKED for _, _, row in ranked)
    rest = " Not ranked: not known by that measure, or measured on other text." if unranked else ""
    with_errors = {"SQNR, dB", *(head for _, head in costs)}
    numeric = {"#", "clipped", *with_errors}
    return {
        "name": "ranking",
        "title": "Ranking",
        "caption": f"By {', '.join(kinds)}; costs are per token, ± is one standard error. Tied: no worse than the best "
        f"beyond error.{proxy}{rest}",
        "heads": [(head, "n" if head in numeric else "", f"± {head}" if head in with_errors else "") for head in heads],
        "rows": rows,
        "count": len(ranked),
        "most": html.MOST,
        "open": True,
    }
