"""What each layer costs when it alone is quantized, and what is saved when it alone is not."""

from __future__ import annotations

from sweep.compare.answer import Answer
from sweep.compare.tables.table import Table, Value

PARTS = ("only", "all_but")
SCORES = ("kl", "kl_se", "delta_perplexity", "delta_perplexity_se")


def sensitivity_table(a: Answer) -> Table:
    """A row per layer of every cell that was evaluated layer by layer, the dearest first."""
    rows: list[tuple[Value, ...]] = []
    for n in a.shown:
        layers = (a.runs.listed[n].evaluation or {}).get("layers") or []
        for rank, entry in enumerate(sorted(layers, key=lambda one: -(one["only"].get("kl") or 0.0)), 1):
            scores = [(entry.get(part) or {}).get(score) for part in PARTS for score in SCORES]
            rows.append((a.runs.labels[n], rank, entry["layer"], *scores))
    return Table.of(
        "sensitivity",
        "What each layer costs",
        "Ranked by the KL to the unquantized model with only this layer quantized, nats per token. Order within ± is "
        "not known. Perplexity: less that of the unquantized model. All but: with every other layer quantized.",
        "cell | rank:count | layer:count | alone KL nats:nats | ± alone KL:nats | alone Δ perplexity:nats | "
        "± alone Δ perplexity:nats | all but KL nats:nats | ± all but KL:nats | all but Δ perplexity:nats | "
        "± all but Δ perplexity:nats",
        rows,
    )
