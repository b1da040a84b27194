"""The conclusions of a comparison, at most eight lines: each a label and a sentence."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from sweep.compare.analysis.agreement import spearman
from sweep.compare.analysis.contexts import short
from sweep.compare.analysis.convergence import ENOUGH
from sweep.compare.analysis.cost import MEASURED, PREDICTED, SQNR, Estimate
from sweep.compare.analysis.ranking import AS_GOOD, BEST, UNRANKED, Group
from sweep.compare.facts import Answer
from sweep.compare.render import sentences
from sweep.compare.render.agreement import measures
from sweep.compare.render.knobs import knobs
from sweep.compare.render.numbers import nats
from sweep.compare.render.take import command
from sweep.compare.studies.quamba_alpha.reply import OPEN

RUN, MEASURE, GROW = "run", "measure it", "more data"  # labels of commands
WHICH, STUDY = "that is for", "the study"
DISPENSABLE = ("unresolved", WHICH, STUDY, "measures")  # labels, in the order in which too much is shortened
Line = tuple[str, str]
MOST = 8
CONTEXTS, TIES, OTHERS = 6, 3, 3  # named in a line; the table has all
LONGEST = 100  # characters in which the best of several contexts are named


def spoken(a: Answer) -> list[str]:
    """`conclusions` as sentences."""
    return [
        f"{label[0].upper()}{label[1:]}: {text}{'' if label in (RUN, MEASURE, GROW) else '.'}"
        for label, text in conclusions(a)
    ]


def conclusions(a: Answer) -> list[Line]:
    """At most MOST lines: the setting to take and its command, knobs that matter and knobs that do not, agreement of
    the measures, need for more data, and the measurements that are missing."""
    ranked = [group for group in a.ranking if group.rows[0].verdict == BEST]
    lines = _take(ranked, a) if ranked else _results(a)
    lines += knobs(a) + measures(a) + _sensitivity(a) + _data(a) + _unmeasured(a) + _study(a)
    return shortened(lines, len(lines) - MOST)[:MOST]


def shortened(lines: Sequence[Line], excess: int) -> list[Line]:
    """The lines without up to `excess` of those that can be done without, see DISPENSABLE."""
    there = [label for label in DISPENSABLE if any(label == line[0] for line in lines)][: max(0, excess)]
    return [line for line in lines if line[0] not in there]


def _take(ranked: Sequence[Group], a: Answer) -> list[Line]:
    """The best settings of groups whose cost is known, then of the others by SQNR; a command for the first."""
    names = short([group.context for group in ranked])
    lines = []
    for sure in (True, False):
        chosen = [(group, name) for group, name in zip(ranked, names, strict=True) if (group.kind != SQNR) == sure]
        if chosen:
            text = _one(chosen[0][0]) if len(ranked) == 1 else _best(chosen, len(ranked))
            lines.append(("take", text) if sure else ("best by SQNR", f"{text}; effect on the model unknown"))
    first = min(ranked, key=lambda group: group.kind == SQNR)
    cell = a.runs.listed[first.rows[0].cell]
    measure = first.kind == SQNR and not cell.evaluation
    typed = command(cell, measure)
    lines.append((MEASURE if measure else RUN, typed))
    others = []
    for group, name in zip(ranked, names, strict=True):
        if group is not first:
            words = command(a.runs.listed[group.rows[0].cell], measure).split(" ")
            others.append(f"for {name} put {' '.join(word for word in words if word not in typed.split(' '))}")
    if others:
        mine = names[next(i for i, group in enumerate(ranked) if group is first)]
        more = " …" if len(others) > OTHERS else ""
        lines.append((WHICH, f"{'; '.join([mine, *others[:OTHERS]])}{more}"))
    return lines


def _best(chosen: Sequence[tuple[Group, str]], groups: int) -> str:
    """`mse (int8, int4), entropy (e2m1)`, or in how many contexts each is best."""
    best: dict[str, list[str]] = defaultdict(list)
    for group, name in chosen:
        best[group.rows[0].setting].append(name)
    if len(best) == 1 and len(chosen) == groups:
        return f"{next(iter(best))} in {'both' if groups == 2 else f'all {groups:,}'} contexts"
    most = sorted(best.items(), key=lambda item: -len(item[1]))[:CONTEXTS]
    few = len(chosen) <= CONTEXTS and sum(len(name) for _, name in chosen) <= LONGEST
    text = ", ".join(f"{s} ({', '.join(names) if few else f'{len(names)} of {groups}'})" for s, names in most)
    return f"{text} …" if len(best) > CONTEXTS else text


def _one(group: Group) -> str:
    best = group.rows[0]
    cost = {MEASURED: best.measured, PREDICTED: best.predicted}.get(group.kind)
    text = f"{best.setting} ({f'{nats(cost)} nats/token, {group.kind}' if cost else f'{best.sqnr:.2f} dB'})"
    if ties := [row.setting for row in group.rows if row.verdict == AS_GOOD]:
        text += f", tied with {', '.join(ties[:TIES])}{' …' if len(ties) > TIES else ''}"
    if best.setting.startswith("mse") and group.kind == SQNR:
        text += ", by construction: mse minimises this error"
    if group.kind != SQNR and (unknown := sum(row.verdict == UNRANKED for row in group.rows)):
        text += f"; of {unknown} of {len(group.rows)} settings the cost is unknown"
    return text


def _results(a: Answer) -> list[Line]:
    """Of cells that are not ranked against others: their own results, the first of them."""
    lines = []
    for group in a.ranking[:2]:
        row = group.rows[0]
        parts = [f"{nats(row.measured)} nats/token (measured KL)" if row.measured else ""]
        parts += [f"{nats(row.predicted)} nats/token (predicted loss)" if row.predicted else ""]
        rise = f" ({nats(row.rise, signed=True)})" if row.rise else ""
        parts += [f"perplexity {row.perplexity.value:.4g}{rise}" if row.perplexity else ""]
        parts += [f"mean SQNR {row.sqnr:.2f} dB" if row.sqnr is not None else ""]
        unknown = "" if row.measured or row.predicted else "; effect on the model unknown"
        lines.append(("result", f"{row.setting}, {group.context}: {', '.join(p for p in parts if p)}{unknown}"))
    first = a.runs.listed[a.ranking[0].rows[0].cell]
    if not first.evaluation:
        lines.append((MEASURE, command(first, measure=True)))
    return lines


def _sensitivity(a: Answer) -> list[Line]:
    """Of one evaluated cell: the layers whose quantization alone costs most, and whether perplexity says the same."""
    if len(a.runs.listed) > 1 or not (layers := (a.runs.listed[0].evaluation or {}).get("layers")):
        return []
    alone = sorted(layers, key=lambda layer: -(layer["only"]["kl"] or 0.0))
    worst = ", ".join(f"{layer['layer']} ({_kl(layer['only'])} nats)" for layer in alone[:3])
    both = [layer["only"] for layer in layers if layer["only"].get("perplexity") is not None]
    rank = spearman([x["kl"] for x in both], [x["perplexity"] for x in both])
    same = "" if np.isnan(rank) else f"; perplexity ranks layers alike to {rank:.2f} (rank correlation)"
    return [("sensitive", f"layers {worst}{same}")]


def _kl(score: dict[str, float | None]) -> str:
    error = score.get("kl_se")
    return nats(Estimate(score["kl"] or 0.0, np.nan if error is None else error))


def _data(a: Answer) -> list[Line]:
    chosen = {group.rows[0].cell for group in a.ranking}
    known = [c for c in a.convergence if c.cell in chosen]
    if not known:
        return []
    worst = max(known, key=lambda c: c.open_rows / c.rows)
    if worst.enough:
        return [("data", f"{worst.samples} samples are enough: every scale is known to ±{ENOUGH:.1%} (95 %)")]
    text = (
        f"{worst.samples} samples are too few for {worst.open_rows} of {worst.rows} scales (±{worst.error:.1%}, "
        f"median; 0.1 dB takes ±{ENOUGH:.1%})"
    )
    if (ahead := worst.forecast) is None:
        return [("data", text)]
    lines = [("data", f"{text}; {sentences.forecast(ahead)}")]
    return [*lines, (GROW, ahead.command)] if ahead.command else lines


def _unmeasured(a: Answer) -> list[Line]:
    cells = a.runs.listed
    without = sum(1 for c in cells if not c.evaluation)
    if not without:
        return []
    which = "" if without == len(cells) else f" in {without:,} of {len(cells):,} cells"
    predicted = " (predicted loss is from gradients)" if len(a.costs.predicted) == len(cells) else ""
    return [("not measured", f"KL and perplexity{which}{predicted}")]


def _study(a: Answer) -> list[Line]:
    if not a.seed:
        return []
    counts = Counter(reply.verdict for reply in a.seed)
    said = "; ".join(f"{verdict}: {n}" for verdict, n in counts.items() if verdict != OPEN)
    return [(STUDY, f"{said or 'no question is answered'}; --explain says which and why")]
