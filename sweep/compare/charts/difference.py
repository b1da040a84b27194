"""How scales and SQNR differ from the baseline's, layer by layer."""

from __future__ import annotations

from functools import partial

import numpy as np

from sweep.compare.analysis.differences import evidence
from sweep.compare.analysis.significance import LEVEL
from sweep.compare.charts.base import AT_SITE, SHOWN, Chart, rows, who
from sweep.compare.facts import Answer
from sweep.compare.render.theme import DIVERGING

FAINT = 0.35  # opacity of a difference that noise may be all of


def difference(a: Answer, metric: str) -> Chart | None:
    """Heat map, layer x cell, of the difference to the baseline: of the clip in %, or of the SQNR in dB; faint where
    noise may be all of it."""
    base: dict[int, int] = {}
    for v in a.verdicts:
        for cell in v.contrast.cells:
            base.setdefault(cell, v.contrast.cells[v.contrast.baseline])
    pairs = [(n, base[n]) for n in a.shown if n in base and base[n] != n]
    if not pairs:
        return None
    formula = "100 * (o.scale / b.scale - 1)" if metric == "scale" else "o.sqnr_db - b.sqnr_db"
    query = f"""
        WITH pairs(o, b) AS (VALUES {", ".join(map(str, pairs))})
        SELECT pairs.o, o.site, o.layer, {formula} FROM pairs JOIN points o ON o.cell = pairs.o
        JOIN points b ON b.cell = pairs.b AND b.layer = o.layer AND b.site = o.site ORDER BY pairs.o, o.site, o.layer"""
    labels = a.runs.labels
    several = len({b for _, b in pairs}) > 1
    names = who(a)
    name = {c: _minus(names, c, b) if several else labels[c] for c, b in pairs}
    errors = _errors(a, pairs, metric)
    table = [
        (labels[c], name[c], labels[base[c]], site, layer, change, *errors.get((c, layer, site), (None, False)))
        for c, site, layer, change in a.runs.sql(query)
    ]
    against = f"less {labels[pairs[0][1]]}" if not several else "less its baseline"
    model = f", {a.runs.listed[a.shown[0]].model}" if len({a.runs.listed[n].model for n in a.shown}) == 1 else ""
    steps = (0.01, 1, 10, 50) if metric == "scale" else (0.1, 1, 3, 10)
    unit = "%" if metric == "scale" else "dB"
    classes, bucket = _buckets(steps)
    return Chart(
        f"difference-{metric}",
        "scales",
        10 if metric == "scale" else 20,
        f"{'Scale' if metric == 'scale' else 'SQNR'} of each cell {against}{model}",
        "Orange: larger than the baseline's; blue: smaller. Grey: "
        + ("less than 0.01 % apart." if metric == "scale" else "less than 0.1 dB, too little to matter.")
        + (" Each row names its baseline behind the minus." if several else "")
        + (" Faint: noise may be all of it (95 %)." if any(row[-1] for row in table) else ""),
        {
            "data": rows(("cell", "row", "baseline", "site", "layer", "difference", "error", "noise"), table),
            "transform": [
                {"filter": f"{AT_SITE} && {SHOWN}"},
                {
                    "calculate": "format(datum.difference, '+.3~r') + (isValid(datum.error) ? "
                    f"' ± ' + format(datum.error, '.2~r') : '') + ' {unit}'",
                    "as": "shown",
                },
                {"calculate": bucket, "as": "bucket"},
            ],
            "height": 22 * len(pairs),
            "mark": {"type": "rect", "stroke": "var(--paper)", "strokeWidth": 1},
            "encoding": {
                "x": {"field": "layer", "type": "ordinal", "title": "layer", "axis": {"labelAngle": 0}},
                "y": {
                    "field": "row",
                    "type": "nominal",
                    "title": None,
                    "sort": [name[c] for c, _ in pairs],
                    "axis": {"labelLimit": 330, "domain": False},
                },
                "color": {
                    "field": "bucket",
                    "type": "ordinal",
                    "sort": None,
                    "scale": {"domain": classes, "range": [f"var(--d{i})" for i in range(len(DIVERGING))]},
                    "legend": {
                        "title": unit,
                        "orient": "top",
                        "columns": 5,
                        "symbolType": "square",
                        "symbolSize": 130,
                        "symbolStrokeWidth": 0,
                    },
                },
                "opacity": {"condition": {"test": "datum.noise", "value": FAINT}, "value": 1},
                "tooltip": [
                    {"field": "cell"},
                    {"field": "baseline"},
                    {"field": "layer"},
                    {"field": "shown", "title": "difference"},
                ],
            },
        },
    )


def _errors(
    a: Answer, pairs: list[tuple[int, int]], metric: str
) -> dict[tuple[int, int, str], tuple[float | None, bool]]:
    """(cell, layer, site) → the standard error of its difference, in % or dB, and whether noise may be all of it."""
    known: dict[tuple[int, int, str], tuple[float | None, bool]] = {}
    for e in evidence(a.runs, [(base, cell) for cell, base in pairs], [True] * len(pairs)):
        d = e.rows
        if metric == "scale":
            effect, error, p = d.scale, 100 * np.exp(d.scale) * d.scale_se, d.scale_p
        else:
            effect, error, p = d.sqnr, d.sqnr_se, d.sqnr_p
        noise = (effect != 0) & (p > LEVEL) & (error > 0)
        at = zip(d.layer.tolist(), map(str, d.site), error.tolist(), noise.tolist(), strict=True)
        known |= {(e.other, layer, site): (size, vague) for layer, site, size, vague in at}
    return known


def _minus(names: dict[int, tuple[str, str, str]], cell: int, base: int) -> str:
    """`minmax − percentile 0.9995 · int8`: what both have in common is said once."""
    (_, setting, rest), (whole, other, its) = names[cell], names.get(base, ("", "", ""))
    if rest == its and setting != other:
        return f"{setting} − {other}{f' · {rest}' if rest else ''}"
    return f"{names[cell][0]} − {whole or 'a cell not shown'}"


def _buckets(steps: tuple[float, ...]) -> tuple[list[str], str]:
    """Names of the classes from far below to far above the baseline, and the expression that picks one."""
    below = [f"−{low:g}…−{high:g}" for low, high in zip(steps[:0:-1], steps[-2::-1], strict=True)]
    names = [f"< −{steps[-1]:g}", *below, "≈ 0", *(b.replace("−", "+") for b in _mirrored(below)), f"> +{steps[-1]:g}"]
    borders = [-s for s in reversed(steps)] + list(steps)
    expression = f"'{names[-1]}'"
    for name, border in zip(names[-2::-1], reversed(borders), strict=True):
        expression = f"datum.difference < {border} ? '{name}' : {expression}"
    return names, expression


def _mirrored(below: list[str]) -> list[str]:
    return ["…".join(reversed(name.split("…"))) for name in reversed(below)]


CHARTS = (partial(difference, metric="scale"), partial(difference, metric="sqnr"))
