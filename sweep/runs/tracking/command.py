"""`python -m sweep.track replay DIR…`: the W&B runs of finished cells, from their files."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

from sweep.core import cli
from sweep.runs.tracking.replay import Options, replay


def _parser() -> cli.Parser:
    parser = cli.parser("track", __doc__)
    command = parser.add_subparsers(required=True, metavar="replay").add_parser(
        "replay", help="send finished cells to W&B, from their files alone", description=__doc__
    )
    command.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="a run, a sweep, a folder of them")
    command.add_argument("--mode", choices=("auto", "online", "offline"), default="auto")
    command.add_argument("--project", help="default: the cell's own")
    command.add_argument("--entity", help="default: the cell's own")
    command.add_argument("--group", help="default: the cell's own, else its sweep")
    return parser


@cli.command
def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 where all finished cells are there, 1 where one failed, 2 for bad input."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    asked = _parser().parse_args(arguments)
    options = Options(asked.mode, asked.project, asked.entity, asked.group)
    states: Counter[str] = Counter()
    for outcome in replay(asked.directories, options):
        with cli.aside():
            print(f"{outcome.state:<8} {outcome.directory}  {outcome.seen}", flush=True)
        states[outcome.state] += 1
    print(", ".join(f"{count} {state}" for state, count in sorted(states.items())))
    return cli.NO if states["failed"] else cli.OK
