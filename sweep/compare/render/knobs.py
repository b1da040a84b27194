"""The lines on knobs: those that matter, with their size, those without effect, those the data leaves open."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from sweep.compare.analysis.contexts import short
from sweep.compare.analysis.rules import DEAD, MATTERS, NEGLIGIBLE, NOISE, UNEXAMINED, UNRESOLVED
from sweep.compare.analysis.verdicts import Verdict
from sweep.compare.facts import Answer
from sweep.compare.render import sentences
from sweep.compare.render.numbers import nats

NAMED = 3  # contexts of a knob that a line names
WORDS = {
    DEAD: "not one bit changes",
    NOISE: "nothing beyond noise",
    NEGLIGIBLE: "real but negligible",
}


def knobs(a: Answer) -> list[tuple[str, str]]:
    """(label, text) of at most three lines."""
    kinds: dict[str, dict[str, list[Verdict]]] = defaultdict(lambda: defaultdict(list))
    for v in a.verdicts:
        kinds[v.verdict][v.contrast.knob].append(v)
    lines = []
    if MATTERS in kinds:
        lines.append(
            ("matters", ", ".join(_largest(_where(knob, same, a), same) for knob, same in kinds[MATTERS].items()))
        )
    none = [f"{_judged(knob, same, a)}: {WORDS[k]}" for k in WORDS for knob, same in kinds.get(k, {}).items()]
    lines += [("no effect", "; ".join(none))] if none else []
    left = [_judged(knob, same, a) for k in (UNRESOLVED, UNEXAMINED) for knob, same in kinds.get(k, {}).items()]
    lines += [("unresolved", ", ".join(left))] if left else []
    return lines


def _largest(knob: str, same: Sequence[Verdict]) -> str:
    """A knob and the largest of its effects against a baseline, in nats where these decide, else in dB."""
    costs = [(n, v.contrast.values[v.contrast.baseline]) for v in same for n in v.nats]
    if costs:
        n, base = max(costs, key=lambda pair: abs(pair[0].more.value))
        size = f"{n.value} against {base}: {nats(n.more, signed=True)} nats"
    else:
        known = [
            (*e.overall, f"{v.contrast.value(e.other)} against {v.contrast.values[v.contrast.baseline]}")
            for v in same
            for e in v.evidence
        ]
        db, se, value = max(known, key=lambda k: -1.0 if np.isnan(k[0]) else abs(k[0]), default=(np.nan, np.nan, ""))
        size = f"{value}: {sentences.plus(db, se)} dB"
        if np.isnan(db):
            size = f"at {sum(v.counted for v in same)} of {sum(v.places for v in same)} places; elsewhere unknown"
    left = f"; {without}" if (without := _not_judged(same)) else ""
    return f"{knob[:-1]}; {size}{left})" if knob.endswith(")") else f"{knob} ({size}{left})"


def _judged(knob: str, same: Sequence[Verdict], a: Answer) -> str:
    """`_where`, and the values that are not judged."""
    text, left = _where(knob, same, a), _not_judged(same)
    return text if not left else f"{text[:-1]}; {left})" if text.endswith(")") else f"{text} ({left})"


def _not_judged(same: Sequence[Verdict]) -> str:
    """`0.99 not judged, its cost is unknown`, or an empty text."""
    values = list(dict.fromkeys(value for v in same if v.nats for value in v.unknown))
    if not values:
        return ""
    named = ", ".join(values) if len(values) <= NAMED else f"{len(values)} values"
    return f"{named} not judged: cost unknown"


def _where(knob: str, same: Sequence[Verdict], a: Answer) -> str:
    """`format`, or where its other contexts have another verdict, `alpha (minmax)` or `alpha in 3 contexts`."""
    every = [v for v in a.verdicts if v.contrast.knob == knob]
    if len(every) == 1:
        method = every[0].contrast.context.split(" · ")
        return f"{knob} with {method[1]}" if knob == "alpha" and len(method) > 1 else knob
    if len(same) == len(every):
        return knob
    names = dict(zip((id(v) for v in every), short([v.contrast.context for v in every]), strict=True))
    chosen = list(dict.fromkeys(names[id(v)] for v in same))
    return f"{knob} in {len(same)} contexts" if len(chosen) > NAMED else f"{knob} ({', '.join(chosen)})"
