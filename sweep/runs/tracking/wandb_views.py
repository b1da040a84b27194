"""A W&B workspace and a W&B report of a sweep, from the descriptions in `wandb_panels`, in wandb-workspaces' own types.

Importing this needs the package wandb-workspaces."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import wandb_workspaces.reports.v2 as reports
import wandb_workspaces.workspaces as workspaces

from sweep.core.cli import spelled
from sweep.runs.tracking import wandb_panels as panels
from sweep.runs.tracking.view import View

RUNS = 24  # shown in a panel, at most
WIDTH, HEIGHT, WIDE = 8, 7, 24  # of a report's panels, in its grid of 24 columns

CAPTION = (
    "Ranked by {ranked}. A measured KL is of the whole network on held-out text; predicted loss comes from the "
    "calibration alone and is a lower estimate, whose order is what holds; SQNR is the error of the activations, "
    "which knows nothing of the network."
)


@dataclass(frozen=True)
class Where:
    """name: what the view is called. group: the runs it shows."""

    name: str
    entity: str
    project: str
    group: str


def workspace(where: Where, views: list[View]) -> Any:
    """The table of runs with cost first, and sections of panels of which the first is open."""
    ranked = panels.cost(views)
    return workspaces.Workspace(
        entity=where.entity,
        project=where.project,
        name=where.name,
        sections=[
            workspaces.Section(name=s.heading, panels=[_drawn(p) for p in s.panels], is_open=s.is_open)
            for s in panels.sections(views)
        ],
        settings=workspaces.WorkspaceSettings(x_axis="layer", max_runs=RUNS),
        runset_settings=workspaces.RunsetSettings(
            filters=[workspaces.Metric("Group") == where.group],
            order=[workspaces.Ordering(workspaces.Summary(ranked), ascending=panels.ascending(ranked))],
            pinned_columns=panels.columns(views),
        ),
    )


def report(where: Where, views: list[View], names: list[str]) -> Any:
    """A report: the question, the ranked table, the panels of the first screen with their table of runs, layers,
    commands."""
    ranked = panels.NAMES[panels.cost(views)]
    blocks = [
        reports.P(_asked(views)),
        reports.H2("Settings, the best first"),
        reports.MarkdownBlock(panels.ranking(views, names)),
        reports.P(CAPTION.format(ranked=ranked)),
        _grid(where, views, panels.first_screen(views)),
    ]
    for heading, lines in panels.by_layer(views):
        blocks += [reports.H2(heading), _grid(where, views, lines)]
    blocks += [reports.H2("Reproduce"), reports.CodeBlock(_commands(where.group), language=None)]
    return reports.Report(
        entity=where.entity,
        project=where.project,
        title=where.name,
        description=f"Activation scales, by {ranked}",
        blocks=blocks,
        width="fluid",
    )


def _grid(where: Where, views: list[View], shown: tuple[panels.Panel, ...]) -> Any:
    ranked = panels.cost(views)
    columns = panels.columns(views)
    drawn = [_drawn(panel) for panel in shown]
    x = y = 0
    for panel, one in zip(drawn, shown, strict=True):
        width = WIDE if isinstance(one, panels.Parallel) else WIDTH
        if x + width > WIDE:
            x, y = 0, y + HEIGHT
        panel.layout = reports.Layout(x=x, y=y, w=width, h=HEIGHT)
        x += width
    runset = reports.Runset(
        entity=where.entity,
        project=where.project,
        name=where.group,
        filters=[workspaces.Metric("Group") == where.group],
        order=[reports.OrderBy(reports.SummaryMetric(ranked), ascending=panels.ascending(ranked))],
        pinned_columns=columns,
        visible_columns=columns,
        column_order=columns,
        lock_columns=True,
    )
    return reports.PanelGrid(runsets=[runset], panels=drawn)


def _drawn(panel: panels.Panel) -> Any:
    summary = reports.SummaryMetric
    match panel:
        case panels.Line():
            return reports.LinePlot(
                title=panel.title,
                x=reports.Metric(panel.over),
                y=[panel.metric],
                log_y=panel.log,
                smoothing_factor=0,
                max_runs_to_show=RUNS,
            )
        case panels.Bar():
            return reports.BarPlot(title=panel.title, metrics=[summary(panel.metric)], max_bars_to_show=RUNS)
        case panels.Scatter():
            return reports.ScatterPlot(
                title=panel.title, x=summary(panel.x), y=summary(panel.y), log_x=panel.log_x, log_y=panel.log
            )
        case panels.Parallel():
            axis = reports.ParallelCoordinatesPlotColumn
            axes = [axis(reports.Config(knob), display_name=knob.split(".")[-1]) for knob in panel.knobs]
            costs = [axis(summary(key), display_name=panels.NAMES[key]) for key in panel.metrics]
            costs[-1] = replace(costs[-1], log=panel.log)
            return reports.ParallelCoordinatesPlot(title=panel.title, columns=[*axes, *costs])
        case panels.Importance():
            return reports.ParameterImportancePlot(with_respect_to=panel.metric)
    raise AssertionError(panel)


def _asked(views: list[View]) -> str:
    """Models, text, dtype, device and version of the runs, in a line."""

    def each(read: Any) -> str:
        return ", ".join(dict.fromkeys(str(read(v.config)) for v in views))

    tokens = each(lambda c: "{samples} x {seqlen} tokens of {data}".format(**c["provenance"]["tokens"]))
    device = each(lambda c: (c["provenance"]["device"] or {}).get("name"))
    finished = max(str(v.config["provenance"]["finished"]) for v in views)[:10]
    count = f"{len(views)} run{'s' if len(views) > 1 else ''}"
    return (
        f"{count} of {each(lambda c: c['model']['name'])}; {tokens}; {each(lambda c: c['dtype'])}, {device}; {finished}"
    )


def _commands(group: str) -> str:
    return f"{spelled('compare')} runs/{group}\n{spelled('reproduce')} runs/{group}/0"
