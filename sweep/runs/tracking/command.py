"""`python -m sweep.track replay DIR…`: the W&B runs of finished cells, from their files."""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import NoReturn

from sweep.core.errors import UsageError
from sweep.core.signals import exit_code
from sweep.runs.tracking.replay import Options, replay


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see python -m sweep.track --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m sweep.track", description=__doc__)
    command = parser.add_subparsers(required=True, metavar="replay", parser_class=_Parser).add_parser(
        "replay", help="send finished cells to W&B, from their files alone", description=__doc__
    )
    command.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="a run, a sweep, a folder of them")
    command.add_argument("--mode", choices=("auto", "online", "offline"), default="auto")
    command.add_argument("--project", help="default: the cell's own")
    command.add_argument("--entity", help="default: the cell's own")
    command.add_argument("--group", help="default: the cell's own, else its sweep")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 where all finished cells are there, 1 where one failed, 2 for bad input."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        asked = _parser().parse_args(arguments)
        options = Options(asked.mode, asked.project, asked.entity, asked.group)
        states: Counter[str] = Counter()
        for outcome in replay(asked.directories, options):
            print(f"{outcome.state:<8} {outcome.directory}  {outcome.seen}", flush=True)
            states[outcome.state] += 1
        print(", ".join(f"{count} {state}" for state, count in sorted(states.items())))
        return 1 if states["failed"] else 0
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    with exit_code():
        sys.exit(main())
