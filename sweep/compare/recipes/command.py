"""`python -m sweep.recipe SWEEP`: for every layer and site the choice of a sweep that costs the network least."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from sweep.compare.recipes.allocate import Allocation, Knapsack, Option
from sweep.compare.recipes.gather import Options, Whole, gather
from sweep.config.recipe import SCHEMA, Choice
from sweep.core import cli
from sweep.core.errors import UsageError
from sweep.quantization import formats
from sweep.quantization.types import SiteKey

HEAD = """\
# Of the cells of a sweep, for each layer and site the choice of least predicted loss. Written by
#   {command}
# and run, measured like any other cell, by
#   python -m sweep recipe={file} evaluate.perplexity=true
# Losses are nats per token, as docs/definitions.md defines them. Choices may be changed by hand.
"""


@cli.command
def main(arguments: list[str] | None = None) -> int:
    run(sys.argv[1:] if arguments is None else arguments)
    return cli.OK


def parser() -> argparse.ArgumentParser:
    p = cli.parser(
        "recipe",
        "Write a recipe: of the methods, alphas and formats of a sweep, for every layer and site the one "
        "of least predicted loss, within a budget if one is given. `python -m sweep recipe=FILE` runs it as a cell.",
    )
    p.add_argument("paths", nargs="*", metavar="SWEEP", help="directories or globs; default: the latest of runs/")
    p.add_argument("--bits", type=_positive, metavar="B", help="at most so many bits a value, on average over values")
    p.add_argument("--loss", type=_positive, metavar="L", help="as few bits as a predicted loss of L nats allows")
    p.add_argument("--out", type=Path, metavar="FILE", help="default: recipe[-bitsB][-lossL].yaml in the first SWEEP")
    return p


def run(arguments: list[str]) -> None:
    options = parser().parse_args(arguments)
    gathered = gather(options.paths)
    sites = sorted(gathered.costs, key=lambda site: (site[0], site[1]))
    pairs = [_options(gathered.costs[site]) for site in sites]
    items, values = [[option for option, _ in pair] for pair in pairs], [gathered.values[site] for site in sites]
    allocation = _within(Knapsack(items, values), options.bits, options.loss)
    choices = {site: pair[j][1] for site, pair, j in zip(sites, pairs, allocation.taken, strict=True)}
    within = [w for w in gathered.cells if _allowed(w, options.bits, options.loss)]
    best = min(within, key=lambda w: w.loss if options.loss is None else (w.bits, w.loss), default=None)
    file = options.out or _default(options.paths, gathered, options.bits, options.loss)
    command = shlex.join(["python", "-m", "sweep.recipe", *arguments])
    head = HEAD.format(command=command, file=file)
    text = yaml.safe_dump(
        _written(gathered, choices, allocation, best, options.bits, options.loss),
        default_flow_style=None, sort_keys=False, width=140, allow_unicode=True,
    )  # fmt: skip
    _save(head + text, file)
    _show(gathered, choices, allocation, best, options.loss is not None, file)


def _save(text: str, file: Path) -> None:
    """Atomically. Raises UsageError where that cannot be."""
    if file.is_dir():
        raise UsageError(f"{file} is a directory; name a file with --out")
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text)
        draft.replace(file)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}; name another file with --out") from error


def _positive(text: str) -> Fraction:
    """A number above 0, exactly as it was written."""
    try:
        value = Fraction(text)
        float(value)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text} is no number") from None
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return value


def _options(costs: dict[Choice, float]) -> list[tuple[Option, Choice]]:
    """The choices of a site that can be worth their bits: of each number of bits the one that costs least."""
    best: dict[int, tuple[Option, Choice]] = {}
    for choice, cost in costs.items():
        bits = formats.named(choice.format).bits
        if bits not in best or cost < best[bits][0].cost:
            best[bits] = (Option(cost, bits), choice)
    return [best[bits] for bits in sorted(best)]


def _within(knapsack: Knapsack, bits: Fraction | None, loss: Fraction | None) -> Allocation:
    """Raises UsageError for a budget that no recipe of these choices keeps."""
    if loss is None:
        if (allocation := knapsack.least_cost(bits)) is None:
            raise UsageError(
                f"bits={float(bits or 0):g} are too few: the formats of this sweep need {knapsack.fewest:.4g} a value "
                "at least; raise --bits, or add a format of fewer bits to the sweep"
            )
        return allocation
    if (allocation := knapsack.fewest_bits(float(loss))) is None:
        cheapest = knapsack.least_cost()
        assert cheapest is not None
        raise UsageError(
            f"loss={float(loss):g} is out of reach: the least of this sweep's choices is {cheapest.cost:.4g} nats per "
            "token; raise --loss, or add formats of more bits to the sweep"
        )
    if bits is not None and allocation.bits > bits:
        raise UsageError(
            f"loss={float(loss):g} takes {allocation.bits:.4g} bits a value, more than bits={float(bits):g}; raise one"
        )
    return allocation


def _allowed(cell: Whole, bits: Fraction | None, loss: Fraction | None) -> bool:
    return (bits is None or cell.bits <= bits) and (loss is None or cell.loss <= loss)


def _default(paths: list[str], gathered: Options, bits: Fraction | None, loss: Fraction | None) -> Path:
    first = Path(paths[0]) if paths else gathered.cells[0].cell.path.parent
    folder = first if first.is_dir() and first != gathered.cells[0].cell.path else gathered.cells[0].cell.path.parent
    budget = "".join(f"-{name}{float(of):g}" for name, of in (("bits", bits), ("loss", loss)) if of is not None)
    return folder / f"recipe{budget}.yaml"


def _written(
    gathered: Options,
    choices: dict[SiteKey, Choice],
    allocation: Allocation,
    best: Whole | None,
    bits: Fraction | None,
    loss: Fraction | None,
) -> dict[str, Any]:
    cells = [whole.cell for whole in gathered.cells]
    single = min((w for w in gathered.cells if w.choice), key=lambda w: w.loss, default=None)
    default = single.choice if single and single.choice else next(iter(choices.values()))
    layers: dict[int, dict[str, Any]] = {}
    for (layer, site), choice in choices.items():
        layers.setdefault(layer, {})[site] = {
            **vars(choice),
            "loss": float(f"{gathered.costs[layer, site][choice]:.6g}"),
        }
    return {
        "schema": SCHEMA,
        "model": cells[0].model,
        "sweep": sorted({str(cell.path.parent) for cell in cells}),
        "calibration": sorted({cell.key for cell in cells}),
        "tokens": cells[0].tokens,
        "budget": {name: float(of) for name, of in (("bits", bits), ("loss", loss)) if of is not None} or None,
        "bits": allocation.bits,
        "loss": allocation.cost,
        "bound": allocation.bound,
        "best_cell": {"name": best.cell.name, "bits": best.bits, "loss": best.loss} if best else None,
        "default": vars(default),
        "layers": layers,
    }


def _show(
    gathered: Options,
    choices: dict[SiteKey, Choice],
    allocation: Allocation,
    best: Whole | None,
    of_bits: bool,
    file: Path,
) -> None:
    console = Console()
    total = sum(gathered.values.values())
    shares: Counter[str] = Counter()
    for site, choice in choices.items():
        shares[choice.format] += gathered.values[site]
    reached = allocation.bits if of_bits else allocation.cost
    gap = (reached - allocation.bound) / reached if reached else 0.0
    what = "bits" if of_bits else "loss"
    lines = [
        f"{len(choices)} sites of {len(gathered.cells)} cells: predicted loss {allocation.cost:.4g} nats per token "
        f"at {allocation.bits:.4g} bits a value ({', '.join(f'{n / total:.0%} {f}' for f, n in shares.most_common())})",
        f"proven: no recipe of these choices within the budget has less than {allocation.bound:.4g} {what} "
        f"(gap {max(gap, 0.0):.1g})",
    ]
    if best:
        lines.append(f"best single cell within it: {best.cell.name}, {best.loss:.4g} nats at {best.bits:.4g} bits")
    lines += [f"left out: {why}" for why in gathered.skipped[:3]]
    if len(gathered.skipped) > 3:
        lines.append(f"left out: {len(gathered.skipped) - 3} more")
    lines += [f"recipe  {file}", f"run it  {cli.spelled('run')} recipe={file} evaluate.perplexity=true"]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
