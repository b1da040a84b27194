"""The seed on the shape of a scale, and the measurements that are missing."""

from __future__ import annotations

import math
from typing import Any

from sweep.compare.analysis.differences import evidence
from sweep.compare.query.database import GROUPS
from sweep.compare.render.sentences import measured, plus
from sweep.compare.studies.quamba_alpha.reply import ANSWERED, OPEN, SITE, STILL, Case, Reply, Subject, decibels
from sweep.runs.compared import Cell

AXES = (
    "Axes are (ssd_group, head_group, dim_group): SSD groups are heads that share B and C; head groups are clusters of "
    "heads with similar channels; dim groups are clusters of channel positions inside a head."
)
SEEDS = ("130m", "2.7b", "8b")


def structure(case: Case) -> Reply:
    """The meaning of the shape (1, 4, 4), with the shapes of the models at hand."""
    text, answered = [AXES], False
    for model in dict.fromkeys(s.model for s in case.subjects):
        subject = next((s for s in case.subjects if s.model == model and _grouped(s) is not None), None)
        if subject is None:
            text.append(_expected(next(c for c in case.runs.listed if c.model == model)))
            continue
        answered = True
        text.append(_found(case, subject))
    return Reply(
        "What does the shape (1, 4, 4) mean?",
        "Asked, not answered: per channel, or per group?",
        ANSWERED if answered else OPEN,
        " ".join(text),
        ("structure", "groups"),
    )


def _grouped(s: Subject) -> int | None:
    return next(iter((*s.group.minmax.values(), *s.group.percentiles.values())), None)


def _found(case: Case, s: Subject) -> str:
    cell = _grouped(s)
    assert cell is not None
    axes = ", ".join(f"count(DISTINCT {axis})" for axis in GROUPS)
    rows = case.at_site(f"{axes}, count(*), max(scale) / min(scale)", [cell], "GROUP BY layer")
    if not rows:
        return f"{s.name}: {SITE} is not among the sites here."
    shape = tuple(max(max(r[i] for r in rows), 1) for i in range(3))
    scales = max(r[3] for r in rows)
    g = case.runs.listed[cell].geometry
    text = (
        f"{s.name}: shape {shape}, {scales} scales per layer for {g['d_inner']} channels "
        f"({g['n_heads']} heads of {g['headdim']}, {g['n_groups']} SSD group{'s' if g['n_groups'] > 1 else ''}), "
        f"{g['d_inner'] / scales:.0f} channels to a scale on average: per group, not per channel. Within a layer they "
        f"differ up to {max(r[4] for r in rows if r[4] is not None):.2f} times, which the seed's mean over them hid."
    )
    if s.tensor.maximum is not None and s.group.maximum is not None:
        (e,) = evidence(case.runs, [(s.tensor.maximum, s.group.maximum)], [False], case.prints)
        db, se = decibels(e)
        if not math.isnan(db):
            text += f" SQNR of {SITE} against one scale, both clipped at the maximum: {plus(db, se)} dB."
    return text


def _expected(cell: Cell) -> str:
    g: dict[str, Any] = cell.geometry
    if cell.geometry.get("family") != "mamba2":
        return f"{cell.model}: has no heads to group."
    return f"{cell.model}: not grouped here (granularity=group); with 4 x 4 it would be ({g['n_groups']}, 4, 4)."


def unmeasured(case: Case) -> Reply:
    """Questions that neither the seed nor these cells answer."""
    runs = case.runs
    models = {c.model for c in runs.listed}
    text = [measured(runs)]
    if missing := [m for m in SEEDS if m not in models]:
        text.append(
            f"Models of the seed that are not here: {', '.join(missing)}; these are {', '.join(sorted(models))}."
        )
    if random := sorted({c.model for c in runs.listed if c.weights != "trained"}):
        text.append(f"Random weights: {', '.join(random)}; their scales tell nothing of the trained model.")
    sets = sorted({f"{c.data} {c.sizes}" for c in runs.listed})
    text.append(
        f"Text: {', '.join(sets)}{'' if len(sets) > 1 else ' alone'} (the seed's: 512 texts of 512 tokens from the "
        "Pile's validation set)."
    )
    if not any(c.method == "percentile_ema" for c in runs.listed):
        text.append("Quamba's moving average of quantiles (method=percentile_ema) is not among the cells.")
    formats = sorted({c.format for c in runs.listed})
    text.append(f"Activations only, in {', '.join(formats)}; quantized weights and speed were not measured.")
    return Reply(
        "What was not measured?",
        "MinMax, larger models, the shape and histograms were left for later; no error of any kind was measured.",
        STILL,
        " ".join(text),
        ("cells",),
    )
