"""`python -m sweep.quamba CHECKPOINT…` reads saved scales; `python -m sweep.quamba export RUN` writes them."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.table import Table

from sweep.core import cli, fitted
from sweep.core.console import Console
from sweep.core.errors import UsageError
from sweep.runs.quamba import cell, checkpoint
from sweep.runs.quamba.checkpoint import Saved
from sweep.runs.quamba.export import FLOOR, WEIGHT_FLOOR, export

MEANING = """\
x_scale      scale of the convolution's input x (clip / 127); in Quamba's Mamba-1 files it covers x and z together
wx_scale     scale of the convolution's WEIGHTS for x: max |w| / 127. Not a scale of any activation
x_out_scale  mean, and range, of the scales of x after convolution and SiLU, over the groups of `shape`
ratio        mean x_out_scale / wx_scale: an activation scale over a weight scale. It says nothing about SiLU;
             that is silu_gain = scale after / scale before SiLU, which a checkpoint does not hold
shape        (ssd_groups, head_groups, dim_groups) of x_out_scales; (1,) is one scale per tensor"""


@cli.command
def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    return _export(given[1:]) if given[:1] == ["export"] else _import(given)


def _import(arguments: list[str]) -> int:
    parser = cli.parser(
        "quamba",
        "Read scales saved by Quamba or Quamba2 into runs that stand beside calibrated ones. "
        f"`{cli.spelled('quamba')} export RUN` goes the other way.",
    )
    parser.add_argument(
        "checkpoint", nargs="+", help="a .safetensors or .bin file, a directory of them, or OWNER/NAME on the Hub"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/quamba"), help="where to write (default %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace other runs of the same names")
    chosen = parser.parse_args(arguments)
    console = Console()
    saved = [checkpoint.find(given) for given in chosen.checkpoint]  # all are read before anything is written
    names = [s.name for s in saved]
    for one in saved:
        unique = one.name if names.count(one.name) == 1 else f"{one.name}-{one.digest[:8]}"
        directory = chosen.runs / unique
        cell.write(one, directory, chosen.overwrite)
        fitted.show(_table(one), console)
        if one.without:
            console.print(f"without activation scales: layers {', '.join(map(str, one.without))}", highlight=False)
        console.print(f"run  {directory}\n", highlight=False, soft_wrap=True)
    console.print(MEANING, style="dim", highlight=False, soft_wrap=True)
    return 0


def _table(saved: Saved) -> Table:
    shown = Table(title=f"{saved.name}: scales as saved by Quamba ({saved.family})", title_justify="left")
    for heading in ("layer", "x_scale", "wx_scale", "x_out_scale", "min … max", "ratio", "shape"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for layer, values in saved.layers.items():
        out = values.get("x_out_scales", values.get("output_scale"))
        entered = values.get("x_scale", values.get("input_scale"))
        weight = values.get("wx_scale", values.get("weight_scale"))
        assert out is not None
        assert entered is not None
        shown.add_row(
            str(layer),
            f"{float(entered):.5f}",
            "–" if weight is None else f"{float(weight):.5f}",
            f"{out.mean():.5f}",
            f"{out.min():.5f} … {out.max():.5f}" if out.size > 1 else "–",
            "–" if weight is None else f"{out.mean() / float(weight):.2f}",
            str(out.shape or (1,)).replace(" ", ""),
        )
    return shown


def _export(arguments: list[str]) -> int:
    parser = cli.parser("quamba export", "Write a run's scales under the key names of Quamba's checkpoints.")
    parser.add_argument("run", type=Path, help="directory of a finished run")
    parser.add_argument("-o", "--output", type=Path, help=".safetensors or .bin (default RUN/quamba.safetensors)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file that OUTPUT names")
    chosen = parser.parse_args(arguments)
    target = chosen.output or chosen.run / "quamba.safetensors"
    if chosen.output and target.exists() and not chosen.overwrite:
        raise UsageError(f"{target} exists; name another file, or say --overwrite")
    number, raised = export(chosen.run, target)
    print(f"{number} entries in {target}")
    if raised:
        more = f" and {len(raised) - 3} more" if len(raised) > 3 else ""
        print(
            f"dead: {', '.join(raised[:3])}{more} below Quamba's floor, by which it would divide: written as "
            f"{FLOOR:g} (weights {WEIGHT_FLOOR:.2g})"
        )
    return 0
