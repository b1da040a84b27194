"""The seed on alpha: its effect, MinMax against it, and which alpha to take."""

from __future__ import annotations

import math

from sweep.compare.analysis.advice import Advice
from sweep.compare.analysis.differences import Evidence
from sweep.compare.analysis.significance import freedom, quantile
from sweep.compare.query.database import SCALES
from sweep.compare.render.sentences import plus
from sweep.compare.studies.quamba_alpha.reply import (
    FAILS,
    HIGH,
    HOLDS,
    MODERATE,
    OPEN,
    SITE,
    Case,
    Reply,
    Side,
    Subject,
    changes,
    decibels,
    unite,
)

SMALL = 0.001  # the seed's "< 0.1 %"


def acts(case: Case) -> Reply:
    """The effect of alpha on each path, including the one on which it is dead."""
    text, verdicts = [], []
    for s in case.subjects:
        moved = _pair(case, s.tensor, HIGH)
        if moved is None:
            text.append(f"{s.name}, one scale per tensor: not answered; needs percentile at {MODERATE} and {HIGH:g}.")
        else:
            verdicts.append(FAILS if any(c.exceeds(SMALL) for c in changes(moved)) else HOLDS)
            text.append(f"{s.name}, one scale per tensor, where alpha acts: {_effect(moved)}")
        text.append(_grouped(case, s))
    return Reply(
        "What does alpha do?",
        "From 0.9995 to 0.99999 scales change by less than 0.1 %.",
        unite(verdicts),
        " ".join(text),
        ("alpha", "difference-scale"),
    )


def _effect(e: Evidence) -> str:
    moved = changes(e)
    return (
        f"from {MODERATE} to {HIGH:g} the scale of {SITE} moves by {moved[0]} to {moved[-1]}, "
        f"its SQNR by {plus(*decibels(e))} dB on average."
    )


def _grouped(case: Case, s: Subject) -> str:
    cells = list(s.group.minmax.values())
    if not cells:
        return f"{s.name}, grouped path: not answered; needs method=minmax granularity=group."
    source = case.runs.source(SCALES, cells)
    ((rows, exact),) = case.runs.sql(
        f"SELECT count(*), count(*) FILTER (abs(clip - absmax) <= 1e-6 * absmax) FROM {source}"
    )
    parts = [
        f"{s.name}, grouped minmax, the path that the seed swept (Quamba's grouped Mamba-2 calibration takes the "
        "maximum and never reads the alpha it is given; the differences of 0.03 to 0.06 % it saw are no effect of "
        f"alpha): alpha is dead. The clip is the largest magnitude in {exact} of {rows} rows"
    ]
    if len(cells) > 1:
        same = len({case.prints[c] for c in cells}) == 1
        asked = ", ".join(f"{a:g}" for a in sorted(a for a in s.group.minmax if a is not None))
        parts.append(f", and alpha {asked} {'differ in not one bit' if same else 'DIFFER, which must not be'}.")
    else:
        parts.append("; minmax ignores alpha, so cells that differ in nothing else are planned as one.")
    if moved := _pair(case, s.group, HIGH):
        parts.append(f" If alpha were read there: {_effect(moved)}")
    return "".join(parts)


def minmax(case: Case) -> Reply:
    """MinMax against a percentile, on both paths."""
    text, verdicts = [], []
    for s in case.subjects:
        for name, side in (("one scale per tensor", s.tensor), ("groups", s.group)):
            e = _against_maximum(case, side)
            if e is None or not changes(e):
                text.append(f"{s.name}, {name}: not answered; needs minmax and percentile {MODERATE}.")
                continue
            larger = sorted(1 / (1 + c.value) for c in changes(e))
            db, se = decibels(e)
            known = not (math.isnan(db) or math.isnan(se))
            reach = quantile(0.95, freedom(e.folds)) * se
            if not known:
                text.append(
                    f"{s.name}, {name}: MinMax's scale of {SITE} is {larger[0]:.2f} to {larger[-1]:.2f} times that of "
                    f"percentile {MODERATE}; its SQNR or the error of that is not known (alpha=1.0 may tell)."
                )
                continue
            verdicts.append(HOLDS if db - reach > 0 else FAILS if db + reach < 0 else OPEN)
            better = {HOLDS: "percentile is better", FAILS: "MinMax is better"}.get(verdicts[-1], "undecided")
            text.append(
                f"{s.name}, {name}: MinMax's scale of {SITE} is {larger[0]:.2f} to {larger[-1]:.2f} times that of "
                f"percentile {MODERATE}; SQNR of the percentile against MinMax {plus(db, se)} dB, so {better}."
            )
    text.append("Larger scales are coarser steps, clipping is a loss too: SQNR weighs both.")
    return Reply(
        "MinMax or percentile?",
        "Not measured, yet: the percentile has filtered outliers that MinMax would keep; better filter too many.",
        unite(verdicts),
        " ".join(text),
        ("minmax", "settings"),
    )


def _against_maximum(case: Case, side: Side) -> Evidence | None:
    """The evidence of percentile 0.9995 against the maximum."""
    if side.maximum is None or MODERATE not in side.percentiles:
        return None
    return case.evidence[side.maximum, side.percentiles[MODERATE]]


def advisable(case: Case) -> Reply:
    """The recommended alpha, and the loss of others with its error."""
    text, verdicts = [], []
    for one in case.advice:
        losses = {r.setting: r for r in one.runners}
        mine = losses.get(f"percentile {MODERATE}")
        text.append(
            f"{one.context}: {one.best.setting}, mean SQNR {one.best.sqnr_db:.2f} dB over all sites; {_rest(one)}."
        )
        if mine:
            best = mine is one.best
            verdicts.append(HOLDS if best or mine.tied else FAILS)
    text.append("Grouped minmax has no alpha to choose: that advice is for a path that reads one.")
    return Reply(
        "Which alpha is advisable?",
        "0.9995 by default; 0.99999 gains less than 0.1 %.",
        unite(verdicts),
        " ".join(text) if case.advice else "Not answered: no two settings of one model, format and granularity.",
        ("settings", "choices", "sqnr-alpha"),
    )


def _rest(one: Advice) -> str:
    return ", ".join(
        f"{r.setting} {plus(-r.loss_db, r.loss_se)} dB{' (as good)' if r.tied else ''}" for r in one.runners[1:6]
    )


def _pair(case: Case, side: Side, alpha: float) -> Evidence | None:
    """The evidence of percentile `alpha` against percentile 0.9995; None without those cells, or without the site."""
    if MODERATE not in side.percentiles or alpha not in side.percentiles:
        return None
    e = case.evidence[side.percentiles[MODERATE], side.percentiles[alpha]]
    return e if changes(e) else None
