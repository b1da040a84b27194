"""python -m sweep.compare [DIR …]: the answer in the terminal, and one HTML file to send to a colleague."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from sweep.core import cli, streams
from sweep.core.errors import UsageError

FORMATS = ("terminal", "markdown", "csv", "latex", "json")
MANY = 500  # cells above which no HTML is written unless a file is named
OURS = (b"Content-Security-Policy", b"<title>Scales of ")  # in the first lines of every report


def parser() -> argparse.ArgumentParser:
    p = cli.parser(
        "compare",
        "Tables, verdicts and a report across cells of any number of sweeps.",
        epilog="Names may hold *; lists are separated by commas; layers may be ranges: --site 'x_*' --layer 0-3,7",
    )
    p.add_argument("paths", nargs="*", metavar="DIR", help="directories or globs; default: the latest sweep of runs/")
    for name, what in (
        ("site", "sites"), ("layer", "layers"), ("model", "models"), ("method", "methods"), ("alpha", "alphas"),
        ("number-format", "number formats of the activations"), ("granularity", "granularities"),
    ):  # fmt: skip
        p.add_argument(f"--{name}", metavar="LIST", help=f"only these {what}")
    p.add_argument(
        "--metric", type=str.lower, default="scale", help="column of the per-layer table and heat map (default: scale)"
    )
    p.add_argument("--baseline", metavar="WHAT", help="alpha=0.9995, method=minmax, or a cell's name or directory")
    p.add_argument("--format", type=str.lower, choices=FORMATS, default="terminal", help="what goes to stdout")
    p.add_argument(
        "--table", type=str.lower, metavar="NAME", help="only this table, in the format asked for; `all` for every one"
    )
    p.add_argument("--explain", action="store_true", help="what SiLU does, and the questions of the first study")
    p.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="the report (default: compare.html in the first DIR)",
    )
    p.add_argument("--no-html", action="store_true", help="write no report")
    p.add_argument(
        "--plots", type=Path, metavar="DIR", help="figures for papers: every chart as PDF, SVG and PNG, captions beside"
    )
    p.add_argument("--log-wandb", action="store_true", help="log tables, answers and charts as one W&B run")
    return p


def run(arguments: list[str] | None) -> None:
    options = parser().parse_args(arguments)
    if options.html and not options.no_html:
        _keep_foreign(options.html)
    from sweep.compare.query.comparison import (
        load,  # after a usage error: DuckDB has more to say where it is not needed
    )

    filters = {k: getattr(options, k) for k in ("site", "layer", "model", "method", "alpha", "granularity")}
    runs = load(*options.paths, format=options.number_format, **filters)

    from sweep.compare.answer import answer
    from sweep.compare.query.damage import whole_tables

    with whole_tables(runs.listed):
        _out(answer(runs, options.baseline, options.metric, options.explain), options)


def _out(answered, options: argparse.Namespace) -> None:  # type: ignore[no-untyped-def]
    if options.format == "terminal":
        _terminal(answered, options.table, options.explain)
    else:
        from sweep.compare.render.writers import FORMATS as writers

        if options.format in ("csv", "json"):
            streams.exact()
        sys.stdout.write(writers[options.format](answered, _chosen(answered, options.table)))
    sys.stdout.flush()
    if options.plots:
        from sweep.compare.render.pictures import save

        print(f"{save(answered, options.plots)} charts in {options.plots}", file=sys.stderr)
    _report(answered, options)
    if options.log_wandb:
        from sweep.compare.render.wandb_log import log

        named = [path for path in options.paths if Path(path).is_dir()]  # a glob is no place for W&B's files
        print(f"W&B  {log(answered, _sweep(named, answered))}", file=sys.stderr)


def _terminal(answered, table: str | None, explain: bool) -> None:  # type: ignore[no-untyped-def]
    from sweep.compare.render.terminal import show, show_table
    from sweep.core.console import Console

    console = Console(highlight=False)
    if table is None:
        show(answered, console, explain)
        return
    for warning in answered.runs.warnings:
        console.print(f"! {warning}", style="bold yellow", markup=False)
    for one in _chosen(answered, table):
        show_table(one, console)


def _chosen(answered, name: str | None):  # type: ignore[no-untyped-def]
    from sweep.compare.tables.catalogue import tables as every

    tables = every(answered)
    if name in (None, "all"):
        return tables
    names = list(dict.fromkeys(t.name for t in tables))
    if name not in names:
        raise UsageError(f"table={name}: no such table here; there are: {', '.join(names)}")
    return [t for t in tables if t.name == name]


def _report(answered, options: argparse.Namespace) -> None:  # type: ignore[no-untyped-def]
    wanted = options.html or (options.format == "terminal" and not options.table and len(answered.runs.listed) <= MANY)
    if not wanted or options.no_html:
        return
    from sweep.compare.render.report import write

    path = options.html or _default(options.paths, answered)
    _keep_foreign(path)
    try:
        write(answered, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; name another file with --html") from error
    print(f"report  {path}", file=sys.stderr)


def _keep_foreign(path: Path) -> None:
    """Raises UsageError if a report would replace a file that is neither a report nor empty."""
    try:
        with path.open("rb") if path.is_file() else nullcontext() as file:
            begin = file.read(4096) if file else b""
    except OSError:
        return  # it cannot be written either, and is refused then
    if begin and not all(mark in begin for mark in OURS):
        raise UsageError(f"{path} is no report and would be overwritten; remove it, or name another file with --html")


def _default(paths: list[str], answered) -> Path:  # type: ignore[no-untyped-def]
    return _sweep(paths, answered) / "compare.html"


def _sweep(paths: list[str], answered) -> Path:  # type: ignore[no-untyped-def]
    first = Path(paths[0]) if paths else answered.runs.listed[0].path.parent
    return first if first.is_dir() else Path()


@cli.command
def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0, or 2 for bad input."""
    run(arguments)
    return cli.OK


if __name__ == "__main__":
    cli.run(main)
