"""`python -m sweep.dashboard [DIR]`: a W&B workspace for a sweep, its panels made from what its cells logged.

Built offline from the cells' files; saved only where a key is configured.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweep.config.knobs import Wandb
from sweep.core import cli
from sweep.core.errors import UsageError
from sweep.runs.tracking import view
from sweep.runs.tracking.view import View

SERIES = (  # column, heading, whether its axis is logarithmic
    ("scale", "Scale by layer", True),
    ("sqnr_db", "SQNR by layer, dB", False),
    ("silu_gain", "SiLU gain by layer: scale after / before SiLU, at most 1 for a quantile", False),
    ("ratio", "Ratio by layer: activation / weight scale, which says nothing of SiLU", False),
)
BARS = ("sqnr_db_mean", "sqnr_db_min", "scale_mean", "silu_gain_mean", "ratio_mean")
WHOLE = ("worst/sqnr_db", "evaluation/perplexity", "evaluation/kl")  # bars that belong to no site
RUNS = 24  # shown in a panel, at most


@dataclass(frozen=True)
class Panel:
    """metric: `<site>/<column>` of the history (a line over layers) or a key of the summary (a bar per run)."""

    title: str
    metric: str
    line: bool
    log: bool = False


def sections(views: list[View]) -> dict[str, list[Panel]]:
    """Heading → panels, summary first. Only metrics that one of the cells logged: no panel is empty."""
    logged = {key for v in views for values in v.layers.values() for key in values}
    summary = {key for v in views for key in v.summary}
    sites = sorted({key.rsplit("/", 1)[0] for key in logged if key.endswith("/scale")})
    keys = [*WHOLE, *(f"{site}/{bar}" for bar in BARS for site in sites)]
    found = {"Summary": [Panel(key, key, line=False) for key in keys if key in summary]}
    for column, heading, log in SERIES:
        keys = [f"{site}/{column}" for site in sites]
        found[heading] = [Panel(key.split("/")[0], key, line=True, log=log) for key in keys if key in logged]
    return {heading: panels for heading, panels in found.items() if panels}


def workspace(name: str, entity: str, project: str, group: str, found: dict[str, list[Panel]]) -> Any:
    """The workspace of the runs of one group. Raises UsageError where wandb-workspaces is not installed."""
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise UsageError(
            "dashboards need the package wandb-workspaces: pip install 'mamba-scale-sweep[dashboard]'"
        ) from error

    def drawn(panel: Panel) -> Any:
        if not panel.line:
            metric = reports.SummaryMetric(panel.metric)
            return reports.BarPlot(title=panel.title, metrics=[metric], max_bars_to_show=RUNS)
        return reports.LinePlot(
            title=panel.title,
            x=reports.Metric("layer"),
            y=[panel.metric],
            log_y=panel.log,
            smoothing_factor=0,
            max_runs_to_show=RUNS,
        )

    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            workspaces.Section(name=heading, panels=[drawn(p) for p in panels], is_open=True)
            for heading, panels in found.items()
        ],
        settings=workspaces.WorkspaceSettings(x_axis="layer", max_runs=RUNS),
        runset_settings=workspaces.RunsetSettings(filters=[workspaces.Metric("Group") == group]),
    )


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
    found = sections(views)
    built = workspace(f"Scales of {group}", entity, project, group, found)
    print(f"workspace `{built.name}` of project {project}: runs of group {group}")
    for section, panels in zip(built.sections, found.values(), strict=True):
        print(f"  {section.name}: {len(section.panels)} panels")
        print(f"    {', '.join(p.metric for p in panels)}")
    if server is None:
        why = (
            "--no-save"
            if asked.no_save
            else "no W&B key is configured, or WANDB_MODE is offline; `wandb login`, then run this again"
        )
        print(f"not saved: {why}")
        return
    try:
        built.save()
    except Exception as error:  # the network, the server's refusal, an unknown entity: a dozen types
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{server} did not take the workspace: {first}") from error
    print(f"saved: {built.url}")


def _cells(directory: Path | None) -> tuple[list[Any], list[View]]:
    """The finished cells, and what W&B is shown of one per granularity and model: they differ in no other metric."""
    from sweep.runs.discovery import find, read

    listed, problems = read(find([str(directory)] if directory else []))
    if not listed:
        raise UsageError(f"none of {len(problems)} cells is finished; the first: {problems[0]}")
    chosen = {(c.model, c.granularity, c.method, c.evaluation is None): c for c in listed}
    try:
        return listed, [view.read(cell.path) for cell in chosen.values()]
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
