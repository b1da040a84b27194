"""Groups of cells that are ranked against one another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sweep.compare.query.comparison import Comparison
from sweep.compare.query.labels import told_apart


@dataclass(frozen=True)
class Context:
    """Cells that are ranked against one another. names: of their settings, in the order of the cells."""

    text: str
    cells: tuple[int, ...]
    names: tuple[str, ...]


def contexts(runs: Comparison) -> list[Context]:
    """Per model and calibration: the cells of each format and granularity. Where nothing else varies within these, the
    formats of each granularity are ranked together, and where these do not vary either, the granularities.

    Of cells that repeat one another one with a known cost counts, else the latest."""
    listed = runs.listed
    calibrations: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, cell in enumerate(listed):
        calibrations[cell.model, *cell.calibration].append(number)
    told = told_apart(listed)
    chosen = []
    for (model, *_), numbers in calibrations.items():
        for keys in (("format", "granularity"), ("granularity",), ()):
            groups: dict[tuple[str, ...], dict[tuple[str, ...], int]] = defaultdict(dict)
            free = [key for key in ("format", "granularity") if key not in keys]
            for n in sorted(numbers, key=lambda n: listed[n].rank):
                name = (listed[n].setting, *(getattr(listed[n], key) for key in free))
                groups[tuple(getattr(listed[n], key) for key in keys)][name] = n
            if any(len(group) > 1 for group in groups.values()):
                break
        data = [told[numbers[0]]] if told[numbers[0]] else []
        for key, group in groups.items():
            members = sorted((n, name) for name, n in group.items())
            shown = [i for i in range(1 + len(free)) if i == 0 or len({name[i] for name in group}) > 1]
            names = tuple(" · ".join(name[i] for i in shown) for _, name in members)
            chosen.append(Context(" · ".join([model, *data, *key]), tuple(n for n, _ in members), names))
    return chosen


def short(contexts: Sequence[str]) -> list[str]:
    """Contexts without the parts that all of them share; one alone in full."""
    parts = [context.split(" · ") for context in contexts]
    if len(parts) < 2 or len({len(p) for p in parts}) > 1:
        return list(contexts)
    differing = [len(set(column)) > 1 for column in zip(*parts, strict=True)]
    return [" · ".join(part for part, d in zip(p, differing, strict=True) if d) for p in parts]
