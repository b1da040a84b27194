"""The summary of a finished cell on the terminal."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table

from sweep.core import fitted
from sweep.core.console import Console
from sweep.runs.cell import Cell
from sweep.runs.results import Json


def show(cell: Cell, console: Console) -> None:
    """The post-SiLU scales layer by layer, every other site in one line, and where the files are."""
    rows = cell.tables.scales
    results = cell.results
    x = rows.filter(pc.equal(rows["site"], "x_conv_out"))
    one_each = len(x) == len(pc.unique(x["layer"]))
    if results.loss and results.loss.get("standard"):
        fitted.show(_choices(results.loss), console)
    fitted.show((_layers if one_each else _groups)(x, cell.record.name), console)
    fitted.show(_sites(rows), console)
    if results.loss:
        console.print(_cost(results.loss), highlight=False, soft_wrap=True)
    if one_each:  # whose table has these columns
        console.print(
            "SiLU gain = scale after / before SiLU: never above 1 at any quantile; SiLU shrinks.", style="dim"
        )
        console.print("Ratio = activation scale / weight scale of the convolution: says nothing of SiLU.", style="dim")
    if results.evaluation:
        fitted.show(_evaluation(results.evaluation), console)
        if layers := results.evaluation.get("layers"):
            worst = sorted(layers, key=lambda layer: -layer["only"]["kl"])[:4]
            shares = ", ".join(f"{layer['layer']} ({_known(layer['only'])})" for layer in worst)
            console.print(
                f"Most sensitive layers, by their KL when quantized alone: {shares}", highlight=False, soft_wrap=True
            )
    calibration, timings = results.calibration, results.timings
    seconds = sum(timings.get(part, 0.0) for part in ("forward_s", "observe_s", "fisher_s"))
    spent = f"{cell.how}, {seconds:.1f} s" if seconds else cell.how
    lines = {
        "calibration": f"{calibration.path} ({spent}; {results.counts['tokens']:,} tokens)",
        **({"until": str(calibration.until)} if calibration.until else {}),
        "run": str(cell.directory),
        "table": str(cell.directory / "scales.parquet"),
    }
    if run := results.wandb:
        lines["W&B"] = run.get("url") or f"{run['mode']}, {run['dir']}"
    if cell.hints:
        lines["see it"] = "; ".join(cell.hints)
    for name, text in lines.items():
        console.print(f"[bold]{name:>12}[/bold]  ", end="")
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def _choices(cost: Json) -> Table:
    """A table of predicted costs: of the cell's setting, and of the usual ones in the same format, from the same
    pass."""
    shown = Table(title="Predicted loss of all quantized sites, nats per token", title_justify="left")
    for heading in ("setting", "loss", "±", "times the best"):
        shown.add_column(heading, justify="left" if heading == "setting" else "right", no_wrap=True)
    usual = [(" ".join([one["method"], *(f"{a:.10g}" for a in [one["alpha"]] if a)]), one) for one in cost["standard"]]
    known = [one["loss"] for _, one in usual if one["loss"]]
    others = [pair for pair in usual if pair[1]["loss"] != cost["loss"]]  # of its own setting one row is enough
    for setting, one in [("this cell", cost), *others]:
        times = one["loss"] / min(known) if known and one["loss"] is not None else None
        shown.add_row(
            setting, _number(one["loss"], ".3g"), _number(one["loss_se"], ".1g"), _number(times, ".2f"),
            style="bold" if one is cost else "",
        )  # fmt: skip
    return shown


def _cost(cost: Json) -> str:
    if cost["loss"] is None:
        known = ", ".join(site for site, of in cost["sites"].items() if of["loss"] is not None)
        return f"Predicted loss is known of {known} only: no gradients were collected of the channel groups of others."
    worst = sorted(cost["sites"].items(), key=lambda item: -item[1]["loss"])[:3]
    shares = ", ".join(f"{site} {of['loss'] / max(cost['loss'], 1e-300):.0%}" for site, of in worst)
    error = f" ± {cost['loss_se']:.1g}" if cost["loss_se"] is not None else ""
    bits = f"with all quantized sites rounded to {cost['bits']:.3g} bits a value"
    return f"Predicted loss: {cost['loss']:.3g}{error} nats per token {bits}; of it {shares}"


def _layers(rows: pa.Table, title: str) -> Table:
    shown = Table(title=f"{title}: x_conv_out, after SiLU", title_justify="left")
    for heading in ("layer", "scale", "± se", "clip", "SiLU gain", "ratio", "SQNR dB", "clipped"):
        shown.add_column(heading, justify="right")
    for row in rows.to_pylist():
        shown.add_row(
            str(row["layer"]),
            _number(row["scale"], ".5f"),
            _number(row["scale_se"], ".1e"),
            _number(row["clip"], ".3f"),
            _number(row["silu_gain"], ".3f"),
            _number(row["ratio"], ".2f"),
            _number(row["sqnr_db"], ".1f"),
            _number(row["clip_fraction"], ".4%"),
        )
    return shown


def _groups(rows: pa.Table, title: str) -> Table:
    """A line per layer: how many scales it has and how far apart they are; scales.parquet has them one by one."""
    shown = Table(title=f"{title}: x_conv_out, after SiLU", title_justify="left")
    for heading in ("layer", "scales", "min", "mean", "max", "max/min", "SQNR dB min", "clipped max"):
        shown.add_column(heading, justify="right")
    for layer in pc.unique(rows["layer"]).to_pylist():
        part = rows.filter(pc.equal(rows["layer"], layer))
        scale = pc.min_max(part["scale"]).as_py()
        shown.add_row(
            str(layer),
            str(len(part)),
            _number(scale["min"], ".5f"),
            _number(pc.mean(part["scale"]).as_py(), ".5f"),
            _number(scale["max"], ".5f"),
            _number(scale["max"] / scale["min"] if scale["min"] else None, ".2f"),
            _number(pc.min(part["sqnr_db"]).as_py(), ".1f"),
            _number(pc.max(part["clip_fraction"]).as_py(), ".4%"),
        )
    return shown


def _sites(rows: pa.Table) -> Table:
    shown = Table(title="All sites, over the layers", title_justify="left")
    loss = ("loss,\nnats",) if rows["loss"].null_count < len(rows) else ()
    of_scale, of_sqnr = ("scale\nmin", "scale\nmean", "scale\nmax"), ("SQNR\nmin", "SQNR\nmean")
    for heading in ("site", *of_scale, *of_sqnr, "worst\nlayer", *loss):  # 80 columns
        shown.add_column(heading, justify="left" if heading == "site" else "right", no_wrap=True)
    for site in pc.unique(rows["site"]).to_pylist():
        part = rows.filter(pc.equal(rows["site"], site))
        scale, sqnr = part["scale"], part["sqnr_db"]
        worst = part.sort_by("sqnr_db")["layer"][0].as_py() if sqnr.null_count < len(sqnr) else None
        extremes = pc.min_max(scale).as_py()
        shown.add_row(
            site,
            _number(extremes["min"], ".5f"),
            _number(pc.mean(scale).as_py(), ".5f"),
            _number(extremes["max"], ".5f"),
            _number(pc.min(sqnr).as_py(), ".1f"),
            _number(pc.mean(sqnr).as_py(), ".1f"),
            _number(worst, "d"),
            *(_number(pc.sum(part["loss"], min_count=len(part)).as_py(), ".2e") for _ in loss),
        )
    return shown


def _evaluation(evaluation: Json) -> Table:
    text = evaluation["tokens"]
    size = f"{text['samples']} x {text['seqlen']} held-out tokens of {text['data']}"
    shown = Table(title=f"Fake-quantized forward: {size}", title_justify="left")
    for heading in ("", "unquantized", "quantized", "difference", "± se, paired"):
        shown.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, key in (("perplexity", "perplexity"), ("bits per byte", "bits_per_byte")):
        change = (_number(evaluation[f"delta_{key}"], "+.4f"), _number(evaluation[f"delta_{key}_se"], ".4f"))
        shown.add_row(name, _number(evaluation["baseline"][key], ".4f"), _number(evaluation[key], ".4f"), *change)
    shown.add_row("KL, nats", "0", _number(evaluation["kl"], ".6f"), "", _number(evaluation["kl_se"], ".6f"))
    agreement = (_number(evaluation["top1_agreement"], ".3%"), "", _number(evaluation["top1_agreement_se"], ".3%"))
    shown.add_row("top-1 agreement", "100%", *agreement)
    return shown


def _known(score: Json) -> str:
    error = score.get("kl_se")
    return f"{score['kl']:.2e}" + (f" ± {error:.0e}" if error is not None else "")


def _number(value: float | None, spec: str) -> str:
    return "–" if value is None else format(value, spec)
