"""Scale against number of samples, and how well more of them would tell it."""

from __future__ import annotations

from sweep.compare.analysis.convergence import ENOUGH
from sweep.compare.analysis.significance import freedom, quantile
from sweep.compare.analysis.silu_gain import is_quantile
from sweep.compare.charts.base import (
    AT_SITE,
    HEIGHT,
    SERIES,
    SHOWN,
    ZOOM,
    Chart,
    Spec,
    cell_colour,
    line,
    only,
    points,
    rows,
    who,
)
from sweep.compare.facts import Answer
from sweep.compare.query.database import CONVERGENCE, deployed
from sweep.compare.tables.chosen import pick
from sweep.quantization.methods.registry import METHODS

LAYERS = 8
AHEAD = (1, 1.5, 2, 3, 4)  # times the samples at hand that the forecast reaches


def _jumps(method: str) -> bool:
    return method in METHODS and not METHODS[method].averages


def samples(a: Answer) -> Chart | None:
    """The scale after so many samples relative to the scale after all, its 95 % band, and the band to come."""
    numbers = _different(a)
    source = a.runs.source(CONVERGENCE, numbers)
    if source is None:
        return None
    layers = pick([layer for (layer,) in a.runs.sql(f"SELECT DISTINCT layer FROM {source} ORDER BY layer")], LAYERS)
    if not layers:
        return None
    query = f"""
        WITH c AS (FROM {source}),
        last AS (SELECT cell, layer, site, arg_max(scale, folds) AS final, max(folds) AS most FROM c GROUP BY ALL)
        SELECT c.cell, site, layer, samples, 100 * (scale / final - 1), 100 * scale_se / final, c.folds, most
        FROM c JOIN last USING (cell, layer, site)
        WHERE final > 0 AND {deployed()} AND layer IN ({", ".join(map(str, layers))})
        ORDER BY ALL"""
    names, table, extreme = who(a), [], False
    for c, site, layer, count, change, error, folds, most in a.runs.sql(query):
        half = quantile(0.95, freedom(folds)) * error if error is not None and folds > 2 else None
        band = (change - half, change + half) if half is not None else (None, None)
        table.append((*names[c], site, layer, count, change, *band, "seen"))
        if half and folds == most:  # an error falls by the law of its method; a maximum's does not
            if _jumps(method := a.runs.listed[c].method):
                extreme = True
                continue
            if (power := METHODS[method].power if method in METHODS else None) is None:
                continue
            ahead = [(count * k, half / k ** (1 / power)) for k in AHEAD]
            table += [(*names[c], site, layer, n, None, -reach, reach, "forecast") for n, reach in ahead]
    look = cell_colour(a)
    x: Spec = {"field": "samples", "type": "quantitative", "title": "calibration samples"}
    x["scale"] = {"type": "log", "nice": False, "padding": 8}
    x["axis"] = {"format": "~s", "grid": False}
    title = "scale less final scale, %"
    y = {"field": "change", "type": "quantitative", "title": title}
    edge = {"type": "line", "strokeDash": [2, 3], "strokeWidth": 1.3, "clip": True}
    tip = [{"field": "cell"}, {"field": "samples"}, {"field": "change", "format": "+.3f", "title": "change, %"}]
    tip += [{"field": f, "format": "+.3f", "title": t} for f, t in (("low", "from, %"), ("high", "to, %"))]
    cells = [a.runs.labels[n] for n in sorted(numbers, key=lambda n: _jumps(a.runs.listed[n].method))]
    models = {a.runs.listed[n].model for n in a.shown}
    ahead_only = [{"filter": "datum.kind === 'forecast' && datum.cell === band"}]
    return Chart(
        "samples",
        "data",
        0,
        f"Scale against number of samples{f', {next(iter(models))}' if len(models) == 1 else ''}",
        "Relative to the scale after all samples; the band of the chosen cell is 95 % (from three folds on). Dotted: "
        "where the band will be after more samples, by the law of the method (one over the square root of their number "
        "for a percentile, over its cube root for a clip that is searched); the grey lines are "
        f"±{ENOUGH:.1%}, worth 0.1 dB where rounding dominates."
        + (
            " For minmax and entropy it is how far the answers of single folds scatter, since a maximum and a coarse "
            "argmin do not average out: it need not narrow with samples, and there is no forecast."
            if extreme
            else ""
        ),
        {
            "data": rows((*SERIES, "site", "layer", "samples", "change", "low", "high", "kind"), table),
            "transform": [{"filter": f"{AT_SITE} && datum.layer === layer && {SHOWN}"}],
            "height": HEIGHT,
            "encoding": {"x": x, "color": look["color"], "detail": {"field": "cell"}},
            "layer": [
                {
                    "mark": {"type": "area", "opacity": 0.12, "clip": True},
                    "transform": [{"filter": "isValid(datum.low) && datum.kind === 'seen' && datum.cell === band"}],
                    "encoding": {
                        "y": {"field": "low", "type": "quantitative", "title": title},
                        "y2": {"field": "high"},
                    },
                },
                *(
                    {"mark": edge, "transform": ahead_only, "encoding": {"y": {**y, "field": f}}}
                    for f in ("low", "high")
                ),
                {
                    "data": {"values": [{"edge": 100 * ENOUGH}, {"edge": -100 * ENOUGH}]},
                    "mark": {"type": "rule", "strokeWidth": 1, "color": "var(--line)"},
                    "encoding": {
                        "y": {"field": "edge", "type": "quantitative"},
                        "x": None,
                        "color": None,
                        "detail": None,
                    },
                },
                {
                    "mark": line(width=2),
                    "transform": [{"filter": "datum.kind === 'seen'"}],
                    "encoding": {"y": y, **only(look, "strokeDash")},
                    "params": [ZOOM],
                },
                {
                    "mark": points(),
                    "transform": [{"filter": "datum.kind === 'seen'"}],
                    "encoding": {"y": y, **only(look, "shape"), "tooltip": tip},
                },
            ],
        },
        {"layer": ("layer", layers, layers[len(layers) // 2]), "band": ("band of", cells, cells[0])},
    )


def _different(a: Answer) -> list[int]:
    """The shown cells whose curves differ: what a quantile's scale does with more samples, relative to itself, is the
    same in every format."""
    first: dict[tuple[object, ...], int] = {}
    for n in a.shown:
        c = a.runs.listed[n]
        first.setdefault((c.setting, c.key, c.granularity, None if is_quantile(c.method) else c.format), n)
    return list(first.values())


CHARTS = (samples,)
