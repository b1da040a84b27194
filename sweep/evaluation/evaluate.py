"""The evaluation of one cell, from its scales to its record; every pass is stored and shared like a calibration.

<store>/evaluations/<model>-unquantized-<hash>/   states.safetensors: what enters lm_head, [tokens, d_model]
<store>/evaluations/<model>-quantized-<hash>/     scores.parquet: what one set of quantizers cost, text by text

The key of a pass holds the quantizers themselves and not the method that they came from: cells of equal scales,
and layers of equal scales in the sensitivity of two cells, share a pass. Whatever is interrupted goes on with the
passes that are not there yet.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sweep.config.config import Config
from sweep.core.errors import UsageError, out_of_memory
from sweep.core.progress import Progress, progress
from sweep.core.store import Damaged, Store
from sweep.core.store_key import Key
from sweep.evaluation import channel_quantizer, forward, heldout
from sweep.evaluation.channel_quantizer import Rounding
from sweep.evaluation.scores import Scores
from sweep.models import load, source
from sweep.quantization import granularity
from sweep.quantization.statistics import Statistics
from sweep.quantization.types import SiteKey

SCHEMA = 1
SCORES, STATES = "scores.parquet", "states.safetensors"
Roundings = Mapping[SiteKey, Rounding]


def evaluate(config: Config, statistics: Statistics, scales: pa.Table) -> tuple[dict[str, Any], pa.Table]:
    """The measured cost of a cell's scales (scales.parquet) on held-out text: the record, and the scores text by text.

    It is measured with all layers quantized, and for `sensitivity` with each layer alone and with all but that one. The
    table has the columns of `Scores.table` behind `quantized` (all, only, all_but) and `layer` (null for all). Raises
    UsageError for what a user can mend, Interrupted after a signal."""
    split, _ = granularity.split(statistics, config.granularity, config.grouping)
    roundings = channel_quantizer.of_table(scales, config.evaluate.sites, split)
    if not roundings:
        raise UsageError(f"evaluate.sites={config.evaluate.sites}: {config.model.name} has none of them")
    wanted: dict[tuple[str, int | None], Roundings] = {("all", None): roundings}
    if config.evaluate.sensitivity:
        for layer in sorted({layer for layer, _ in roundings}):
            wanted["only", layer] = {key: r for key, r in roundings.items() if key[0] == layer}
            wanted["all_but", layer] = {key: r for key, r in roundings.items() if key[0] != layer}
    text = heldout.text(config)
    bench = Bench(config, text)
    missing = [key for key in map(bench.key, wanted.values()) if key not in bench.store]
    knobs = f"lower calibration.batch_size={config.calibration.batch_size}, or use dtype=bfloat16"
    shown = progress(f"evaluating {config.model.name}") if missing else nullcontext()
    with shown as show, out_of_memory(knobs):
        bench.show = show
        bench.passes = len({key.hash for key in missing}) + (bench.key(None) not in bench.store)
        measured = {which: bench.scores(these) for which, these in wanted.items()}
    every = measured["all", None]
    record: dict[str, Any] = {
        **every.summary(),
        "baseline": every.baseline(),
        "sites": sorted({site for _, site in roundings}, key=config.evaluate.sites.index),
        "tokens": {
            "sha256": text.tokens.sha256,
            "data": text.tokens.source,
            "samples": len(text.tokens.windows),
            "seqlen": config.calibration.seqlen,
            "count": text.tokens.count,
        },
        "key": bench.key(roundings).hash,
        "path": str(bench.store.path(bench.key(roundings))),
        "cached": not missing,
        "timings": bench.timings,
    }
    if config.evaluate.sensitivity:
        layers = sorted({layer for layer, _ in roundings})
        record["layers"] = [
            {"layer": layer, **{part: measured[part, layer].summary() for part in ("only", "all_but")}}
            for layer in layers
        ]
    return record, _table(measured)


class Bench:
    """A network before held-out text. The network is loaded, and the unquantized pass made, when first needed."""

    def __init__(self, config: Config, text: heldout.Text) -> None:
        self.store = Store(Path(config.store).expanduser() / "evaluations")
        self.show: Progress | None = None
        self.passes = 1
        self.timings = {"load_s": 0.0, "unquantized_s": 0.0, "quantized_s": 0.0}
        self._config, self._text, self._done = config, text, 0
        self._preimage = {
            "schema": SCHEMA,
            "model": source.identity(config.model),
            "tokens": text.tokens.sha256,
            "batch_size": config.calibration.batch_size,
            "dtype": config.dtype,
            "backend": load.backend(config.model, config.device),
        }

    def key(self, roundings: Roundings | None) -> Key:
        """The key of the pass with these sites quantized; None: of the unquantized pass."""
        if roundings is None:
            return Key(f"{self._config.model.name}-unquantized", self._preimage)
        fingerprints = [f"{layer} {site} {roundings[layer, site].fingerprint}\n" for layer, site in sorted(roundings)]
        quantizers = hashlib.sha256("".join(fingerprints).encode()).hexdigest()
        layers, sites = (sorted(set(names)) for names in zip(*roundings, strict=True)) if roundings else ([], [])
        preimage = {**self._preimage, "layers": layers, "sites": sites, "quantizers": quantizers}
        return Key(f"{self._config.model.name}-quantized", preimage)

    def scores(self, roundings: Roundings) -> Scores:
        """The scores of the pass with these sites quantized, from the store or computed now and stored."""
        entry = self._stored(self.key(roundings), lambda draft: self._quantized(roundings).save(draft / SCORES))
        return replace(Scores.load(entry / SCORES), bytes=self._text.bytes)  # they are not part of the key

    def _quantized(self, roundings: Roundings) -> Scores:
        model, baseline = self._model, self._baseline
        begin = time.perf_counter()
        states = forward.hidden_states(model, self._text, roundings, self._config.calibration, self._report)
        scores = forward.score(model, self._text, states, baseline)
        self.timings["quantized_s"] += time.perf_counter() - begin
        return scores

    @cached_property
    def _model(self) -> load.Model:
        begin = time.perf_counter()
        try:
            return load.load(self._config.model, self._config.device, self._config.dtype)
        finally:
            self.timings["load_s"] = time.perf_counter() - begin

    @cached_property
    def _baseline(self) -> Callable[[int], Tensor]:
        """The unquantized network's states of a text."""
        entry = self._stored(self.key(None), self._save_states)
        opened: Any = safetensors.safe_open(entry / STATES, "pt")
        stored = opened.get_slice("states")
        ends = [0]
        for window in self._text.tokens.windows:
            ends.append(ends[-1] + len(window))
        return lambda number: stored[ends[number] : ends[number + 1]]

    def _save_states(self, draft: Path) -> None:
        model = self._model
        begin = time.perf_counter()
        made = dict(forward.hidden_states(model, self._text, {}, self._config.calibration, self._report))
        states = torch.cat([made[number].cpu() for number in range(len(made))])
        safetensors.torch.save_file({"states": states}, draft / STATES)
        self.timings["unquantized_s"] = time.perf_counter() - begin

    def _stored(self, key: Key, save: Callable[[Path], None]) -> Path:
        """The sound entry of a key, made by `save` if there is none; whoever else needs it waits meanwhile."""
        for locked in (False, True):
            with self.store.locked(key) if locked else nullcontext():
                try:
                    if entry := self.store.find(key):
                        return entry
                except Damaged as damage:
                    if locked:
                        aside = self.store.set_aside(key)
                        print(f"damaged: {damage}. Moved to {aside.name}; computing it again", file=sys.stderr)
                if locked:
                    return self.store.put(key, save)
        raise AssertionError

    def _report(self, done: int, total: int) -> None:
        if self.show:
            self.show(self._done * total + done, max(self.passes, self._done + 1) * total)
        self._done += done == total


def _table(measured: Mapping[tuple[str, int | None], Scores]) -> pa.Table:
    tables = []
    for (which, layer), scores in measured.items():
        table = scores.table()
        tables.append(
            table.add_column(0, "quantized", pa.array([which] * len(table))).add_column(
                1, "layer", pa.array([layer] * len(table), pa.int32())
            )
        )
    return pa.concat_tables(tables)
