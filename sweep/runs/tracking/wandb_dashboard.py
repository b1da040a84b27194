"""`python -m sweep.dashboard [DIR]`: a W&B workspace and a W&B report of a sweep, made from what its cells logged.

Both begin with what each setting costs. Built offline from the cells' files; saved only where a key is configured.
"""

from __future__ import annotations

import io
import logging
from contextlib import redirect_stderr
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any

from sweep.config.knobs import Wandb
from sweep.core import cli
from sweep.core.errors import UsageError
from sweep.runs.tracking import view, wandb_panels
from sweep.runs.tracking.view import View

Built = tuple[Any, Any]  # a workspace and a report


def build(name: str, entity: str, project: str, group: str, views: list[View], names: list[str]) -> Built:
    """The workspace and the report of the runs of one group. Raises UsageError where wandb-workspaces is missing."""
    try:
        import wandb_workspaces.reports.v2  # noqa: F401

        from sweep.runs.tracking import wandb_views
    except ImportError as error:
        raise UsageError(
            "dashboards need the package wandb-workspaces: pip install 'mamba-scale-sweep[dashboard]'"
        ) from error
    where = wandb_views.Where(name, entity, project, group)
    return wandb_views.workspace(where, views), wandb_views.report(where, views, names)


def run(arguments: list[str] | None) -> None:
    parser = cli.parser("dashboard", __doc__)
    parser.add_argument("directory", nargs="?", type=Path, metavar="DIR", help="a sweep; default: the latest of runs/")
    parser.add_argument("--entity", help="user or team; default: the cells' own, else the account's")
    parser.add_argument("--project", help="default: the cells' own")
    parser.add_argument("--no-save", action="store_true", help="build and show it, even where a key is configured")
    asked = parser.parse_args(arguments)

    cells, views = _cells(asked.directory)
    config = {**asdict(Wandb()), **views[0].config.get("wandb", {})}
    project = asked.project or config["project"]
    group = config["group"] or cells[0].sweep
    server = None if asked.no_save else _server(cells[0].path)
    entity = asked.entity or config["entity"] or (_account(server) if server else "nobody")
    names = [cell.name for cell in cells]
    workspace, report = build(f"Scales of {group}", entity, project, group, views, names)
    ranked = wandb_panels.NAMES[wandb_panels.cost(views)]
    print(f"workspace and report `{workspace.name}` of project {project}: runs of group {group}, by {ranked}")
    for section in wandb_panels.sections(views):
        print(f"  {section.heading}: {len(section.panels)} panels{'' if section.is_open else ', closed'}")
        print(f"    {', '.join(panel.title for panel in section.panels)}")
    if server is None:
        why = (
            "--no-save"
            if asked.no_save
            else "no W&B key is configured, or WANDB_MODE is offline; `wandb login`, then run this again"
        )
        print(f"not saved: {why}")
        return
    for what, built in (("report", report), ("workspace", workspace)):  # a report is refused where there is no project
        try:
            with redirect_stderr(io.StringIO()):  # where wandb says again what is said here
                built.save()
        except Exception as error:  # the network, the server's refusal, an unknown entity: a dozen types
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            if isinstance(error, ValueError) and "not found" in first:
                raise UsageError(
                    f"project {entity}/{project} is not at {server}: no run was sent there; "
                    f"{cli.spelled('track')} replay {quote(str(cells[0].path.parent))} sends them"
                ) from error
            raise UsageError(f"{server} did not take the {what}: {first}") from error
        print(f"saved {what}: {built.url}")


def _cells(directory: Path | None) -> tuple[list[Any], list[View]]:
    """The finished cells, and what W&B is shown of each."""
    from sweep.runs.compared import read
    from sweep.runs.discovery import find

    listed, problems = read(find([str(directory)] if directory else []))
    if not listed:
        raise UsageError(f"none of {len(problems)} cells is finished; the first: {problems[0]}")
    try:
        return listed, [view.read(cell.path) for cell in listed]
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{directory or 'runs'}: a cell's files are damaged: {error}") from error


def _server(directory: Path) -> str | None:
    """The server a key is configured for, which has answered and knows the key; None where there is no key."""
    import wandb

    from sweep.runs.tracking import wandb_connection

    if (mode := wandb_connection.mode("auto")) in ("offline", "disabled"):  # W&B's own variable
        return None
    try:
        url = wandb_connection.server(mode, directory)
    except wandb_connection.Unreachable as error:
        raise UsageError(f"W&B: {error}") from error
    if url is None:
        return None
    if not wandb_connection.answers(url):
        raise UsageError(f"W&B: {url} does not answer; --no-save builds the workspace without it")
    try:
        wandb.Api(timeout=wandb_connection.CONNECT)  # asks the server whose key it is
    except Exception as error:
        said = wandb_connection.first_line(error.__cause__ or error)
        raise UsageError(f"W&B: {url} does not accept the key: {said}") from error
    return url


def _account(server: str) -> str:
    import wandb

    from sweep.runs.tracking import wandb_connection

    try:
        entity, why = wandb.Api(timeout=wandb_connection.CONNECT).default_entity, "the key has none"
    except Exception as error:
        entity, why = None, wandb_connection.first_line(error)
    if not entity:
        raise UsageError(f"W&B: {server} does not tell your account ({why}); name it with --entity")
    return str(entity)


@cli.command
def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0, or 2 for bad input or a server that refuses."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    run(arguments)
    return cli.OK
