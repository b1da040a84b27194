"""Names of cells by the properties that tell them apart, and warnings about cells that are not comparable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sweep.compare.query.filters import Filters
from sweep.runs.compared import Cell


def labels(cells: Sequence[Cell]) -> list[str]:
    """Short names made of what differs: `percentile 0.9995`, or `2.7b · minmax · fp8`; unique within `cells`."""
    differing = [
        key
        for key in ("model", "setting", "format", "granularity", "data", "sizes", "dtype", "sweep")
        if len({getattr(c, key) for c in cells}) > 1
    ]
    differing = differing or ["setting"]
    names = [" · ".join(str(getattr(c, key)) for key in differing) for c in cells]
    if "sweep" in differing:  # only where nothing else tells two cells apart
        short = [" · ".join(str(getattr(c, key)) for key in differing[:-1]) or c.setting for c in cells]
        repeated = Counter(short)
        names = [name if repeated[s] > 1 else s for name, s in zip(names, short, strict=True)]
    repeated = Counter(names)
    asked: dict[str, set[float | None]] = {}
    for name, cell in zip(names, cells, strict=True):
        asked.setdefault(name, set()).add(cell.asked_alpha)
    names = [  # alpha was asked for and not used: it still tells these cells apart
        f"{name} (alpha {cell.asked_alpha:g} unused)" if len(asked[name]) > 1 and cell.asked_alpha is not None else name
        for name, cell in zip(names, cells, strict=True)
    ]
    repeated = Counter(names)
    seen: Counter[str] = Counter()
    for i, name in enumerate(names):
        if repeated[name] > 1:
            seen[name] += 1
            names[i] = f"{name} #{seen[name]}"
    return names


def observed(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """(text, rest) of every cell: what tells its calibration from others of its model, each empty where they agree.
    text: data, sizes and, where several share these, the first digits of the tokens. rest: dtype and weights."""
    kinds = [(c.model, c.data, c.sizes, c.tokens, c.dtype, c.identity) for c in cells]
    known = dict.fromkeys(kinds)  # a few, of thousands of cells
    told = {}
    for model, data, sizes, tokens, dtype, weights in known:
        here = [kind[1:] for kind in known if kind[0] == model]
        digits = f" {tokens[:6]}" if len({k[2] for k in here if k[:2] == (data, sizes)}) > 1 else ""
        text = f"{data} {sizes}{digits}" if len({k[1:3] for k in here}) > 1 else ""
        rest = [dtype] if len({k[3] for k in here}) > 1 else []
        rest += [f"weights {weights.rpartition(':')[2][:6]}"] if len({k[4] for k in here}) > 1 else []
        told[model, data, sizes, tokens, dtype, weights] = text, " ".join(rest)
    return [told[kind] for kind in kinds]


def told_apart(cells: Sequence[Cell]) -> list[str]:
    """All of `observed` in one text for every cell; empty where its model has one calibration."""
    return [" ".join(filter(None, parts)) for parts in observed(cells)]


def calibrations(cells: Sequence[Cell]) -> list[str]:
    """A letter for every cell: cells of one letter observed the same model on the same tokens."""
    order = {c: i for i, c in enumerate(dict.fromkeys(cell.calibration for cell in cells))}
    return [_letters(order[cell.calibration]) for cell in cells]


def _letters(number: int) -> str:
    return (_letters(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def warnings(cells: Sequence[Cell]) -> list[str]:
    """Why not all of these cells can be compared with one another; empty if they can."""
    reasons = []
    random = sorted({c.model for c in cells if c.weights == "random"})
    if random:
        reasons.append(
            f"random weights: {', '.join(random)}; never trained, so this says nothing about a trained model"
        )
    identities: dict[str, set[str]] = {}
    for cell in cells:
        identities.setdefault(cell.model, set()).add(cell.identity)
    for model, known in identities.items():
        if len(known) > 1:
            reasons.append(f"incompatible: {model} stands for {len(known)} different sets of weights ({_some(known)})")
    for what, key in (("token sets", "tokens"), ("dtypes", "dtype"), ("calibration sizes", "sizes")):
        values = {getattr(c, key) for c in cells}
        if len(values) > 1:
            reasons.append(
                f"incompatible: {len(values)} different {what} ({_some(values)}); "
                "differences between such cells are not due to method, alpha or format alone"
            )
    return reasons


def left_out(cells: Sequence[Cell], filters: Filters) -> list[str]:
    """The warning about cells that have no row which passes the filters; none if there are none."""
    if not cells:
        return []
    asked = " ".join(f"{name}={','.join(map(str, of))}" for name in ("site", "layer") if (of := getattr(filters, name)))
    models = sorted({cell.model for cell in cells})
    have = "have" if len(models) > 1 else "has"
    cells_of = f"{len(cells)} cell{'s' * (len(cells) > 1)} of {', '.join(models)}"
    return [f"left out: {cells_of}, which {have} nothing of {asked}"]


def _some(values: set[str]) -> str:
    short = sorted(v[:12] for v in values)
    return ", ".join(short[:4]) + (", …" if len(short) > 4 else "")
