"""What a finished cell says on the terminal."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table

from sweep.core.console import Console
from sweep.runs.cell import Cell


def show(cell: Cell, console: Console) -> None:
    """The post-SiLU scales layer by layer, every other site in one line, and where the files are."""
    rows = cell.tables.scales
    record = cell.record
    console.print(_layers(rows.filter(pc.equal(rows["site"], "x_conv_out")), record["name"]))
    console.print(_sites(rows))
    if cost := record["loss"]:
        console.print(_cost(cost), highlight=False, soft_wrap=True)
    console.print("SiLU gain = scale after / before SiLU: never above 1 at any quantile; SiLU shrinks.", style="dim")
    console.print("Ratio = activation scale / weight scale of the convolution: says nothing of SiLU.", style="dim")
    if record["evaluation"]:
        console.print(_evaluation(record["evaluation"]))
        if layers := record["evaluation"].get("layers"):
            worst = sorted(layers, key=lambda layer: -layer["only"]["kl"])[:4]
            shares = ", ".join(f"{layer['layer']} ({layer['only']['kl']:.2e})" for layer in worst)
            console.print(
                f"Most sensitive layers, by their KL when quantized alone: {shares}", highlight=False, soft_wrap=True
            )
    calibration, timings = record["calibration"], record["timings"]
    seconds = sum(timings[part] for part in ("forward_s", "observe_s", "fisher_s"))
    spent = f"{cell.how}, {seconds:.1f} s" if seconds else cell.how
    lines = {
        "calibration": f"{calibration['path']} ({spent}; {record['counts']['tokens']:,} tokens)",
        "run": str(cell.directory),
        "table": str(cell.directory / "scales.parquet"),
    }
    if record["wandb"]:
        lines["W&B"] = record["wandb"].get("url") or f"{record['wandb']['mode']}, {record['wandb']['dir']}"
    if cell.wandb_hint:
        lines["see it"] = cell.wandb_hint
    for name, text in lines.items():
        console.print(f"[bold]{name:>12}[/bold]  ", end="")
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def _cost(cost: dict[str, Any]) -> str:
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


def _sites(rows: pa.Table) -> Table:
    shown = Table(title="All sites, over the layers", title_justify="left")
    loss = ("loss, nats",) if rows["loss"].null_count < len(rows) else ()
    for heading in ("site", "scale min", "mean", "max", "SQNR min", "mean", "worst at", *loss):
        shown.add_column(heading, justify="left" if heading == "site" else "right", no_wrap=True)
    for site in pc.unique(rows["site"]).to_pylist():
        part = rows.filter(pc.equal(rows["site"], site))
        scale, sqnr = part["scale"], part["sqnr_db"]
        worst = part.sort_by("sqnr_db")["layer"][0].as_py()
        extremes = pc.min_max(scale).as_py()
        shown.add_row(
            site,
            _number(extremes["min"], ".5f"),
            _number(pc.mean(scale).as_py(), ".5f"),
            _number(extremes["max"], ".5f"),
            _number(pc.min(sqnr).as_py(), ".1f"),
            _number(pc.mean(sqnr).as_py(), ".1f"),
            f"layer {worst}",
            *(_number(pc.sum(part["loss"], min_count=len(part)).as_py(), ".2e") for _ in loss),
        )
    return shown


def _evaluation(found: dict[str, Any]) -> Table:
    text = found["tokens"]
    size = f"{text['samples']} x {text['seqlen']} held-out tokens of {text['data']}"
    shown = Table(title=f"Fake-quantized forward: {size}", title_justify="left")
    for heading in ("", "unquantized", "quantized", "difference", "± se, paired"):
        shown.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, key in (("perplexity", "perplexity"), ("bits per byte", "bits_per_byte")):
        change = (_number(found[f"delta_{key}"], "+.4f"), _number(found[f"delta_{key}_se"], ".4f"))
        shown.add_row(name, _number(found["baseline"][key], ".4f"), _number(found[key], ".4f"), *change)
    shown.add_row("KL, nats", "0", _number(found["kl"], ".6f"), "", _number(found["kl_se"], ".6f"))
    agreement = (_number(found["top1_agreement"], ".3%"), "", _number(found["top1_agreement_se"], ".3%"))
    shown.add_row("same first choice", "100%", *agreement)
    return shown


def _number(value: float | None, spec: str) -> str:
    return "–" if value is None else format(value, spec)
