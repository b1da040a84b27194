"""Calibration one layer at a time: weights come from disk layer by layer, hidden states rest on disk between.

Memory depends neither on the depth of the network nor on the number of samples: one layer's weights and one
batch at a time, and before the first layer the table of embeddings. Each layer is an ordinary calibration of a
network of that layer alone, on the same batches, so that the statistics are the same bit for bit.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sweep.calibration.collect import Collect
from sweep.calibration.layerwise_gradients import LayerwiseGradients
from sweep.calibration.loop import Timings, batches, calibrate
from sweep.calibration.spill import Read, Write, reading, writing
from sweep.calibration.tokens import Tokens
from sweep.config import knobs
from sweep.core.errors import UsageError
from sweep.core.progress import GRADIENTS, SAMPLES, Progress
from sweep.core.signals import deferred
from sweep.models import assemble, load
from sweep.models.blocks import LM
from sweep.models.mixer import mixers
from sweep.models.source import settings
from sweep.quantization.statistics import Statistics


@dataclass(frozen=True)
class Streamed:
    """A network that is read layer by layer. work: a directory of one calibration alone, on a disk with room for the
    hidden states of all samples twice (2 x tokens x d_model x 4 bytes), and of the samples that are differentiated
    once for every layer."""

    model: knobs.Model
    device: str
    dtype: str
    work: Path


@dataclass(frozen=True)
class _Network:
    """A skeleton whose parts get their weights one after the other."""

    skeleton: Any
    source: assemble.Source
    dtype: torch.dtype
    device: str

    def fill(self, part: Any, prefix: str) -> None:
        assemble.fill(part, self.source, prefix.__add__, self.dtype, self.device)

    def read(self, name: str) -> Tensor:
        return self.source.read(name, self.dtype, self.device)


def calibrate_streamed(
    streamed: Streamed,
    tokens: Tokens,
    calibration: knobs.Calibration,
    progress: Progress,
    collect: Collect | None = None,
    base: Statistics | None = None,
) -> tuple[Statistics, Timings]:
    """The result of `calibrate` for the loaded model, bit for bit.

    A run that was stopped goes on at the layer where it was; the work directory is emptied at the end. Raises
    UsageError where the network is more than a stack of Mamba blocks."""
    model, device, work = streamed.model, streamed.device, streamed.work
    shape = settings(model)
    if not load.is_pure(shape):
        raise UsageError(
            f"model.stream=true reads a stack of Mamba blocks (mamba, mamba2); {shape.model_type} is another; "
            "use model.stream=false"
        )
    if (shards := calibration.shards) > 1:
        raise UsageError(f"model.stream=true takes layer after layer; calibration.shards={shards} must be 1")
    skeleton = assemble.skeleton(shape, device)
    network = _Network(skeleton, load.weights(model, shape), getattr(torch, streamed.dtype), device)
    work.mkdir(parents=True, exist_ok=True)
    layers = list(skeleton.backbone.layers)
    if calibration.fisher <= tokens.since:
        calibration = replace(calibration, fisher=0)  # the samples before hold all that are differentiated
    first = _resume(work, len(layers))
    first_mixer = min(mixer.layer for mixer in mixers(skeleton))
    gradients = LayerwiseGradients(work, len(layers), first_mixer, tokens, calibration, torch.device(device))
    timings, total = Timings(), len(tokens.windows) - tokens.since
    passes, later = len(layers) * total, len(layers) * gradients.samples
    if first == 0:
        table = network.read("backbone.embeddings.weight")
        with torch.inference_mode(), writing(_hidden(work, 0)) as write:
            for fold in range(calibration.folds):
                for batch in batches(tokens, fold, calibration):
                    ids = torch.from_numpy(np.stack([tokens.windows[i] for i in batch])).to(device)
                    write(nn.functional.embedding(ids, table))
        if calibration.fisher:
            gradients.embed(table)
        del table
    progress(first * total, passes)
    if later:
        progress(later - gradients.resume() * gradients.samples, later, GRADIENTS)
    for layer in range(first, len(layers)):
        block = layers[layer]
        network.fill(block, f"backbone.layers.{layer}.")

        def report(done: int, _: int, phase: str = SAMPLES, layer: int = layer) -> None:
            progress(layer * total + done, passes)

        with reading(_hidden(work, layer)) as read, writing(_hidden(work, layer + 1)) as write:
            stage = _stage(model.name, block, device, read, write)
            if stage.mixers:
                plain, before = replace(calibration, fisher=0), base.of_layer(layer) if base else None
                statistics, spent = calibrate(stage, tokens, plain, report, collect=collect, base=before)
            else:  # attention: nothing to observe
                statistics, spent = _passed(stage, tokens, calibration)
                report(total, total)
        begin = time.perf_counter()
        if calibration.fisher:
            gradients.forward(layer, block)
        timings.fisher_s += time.perf_counter() - begin
        draft = _observed(work, layer).with_suffix(".draft")
        statistics.save(draft)
        draft.rename(_observed(work, layer))
        _hidden(work, layer).unlink()
        block.to("meta")  # frees its weights
        timings.forward_s += spent.forward_s
        timings.observe_s += spent.observe_s
    begin = time.perf_counter()
    if calibration.fisher:
        _differentiate(model.name, network, gradients, progress, later, collect or Collect())
    timings.fisher_s += time.perf_counter() - begin
    where = gradients.done if calibration.fisher else partial(_observed, work)
    parts = [part for layer in range(len(layers)) if (part := Statistics.load(where(layer))).sites]
    shutil.rmtree(work)
    sites = {key: site for part in parts for key, site in part.sites.items()}
    return Statistics(sites, parts[0].meta | {"n_layer": len(parts)}), timings


def _differentiate(
    name: str, network: _Network, gradients: LayerwiseGradients, progress: Progress, passes: int, collect: Collect
) -> None:
    """The backward pass, from the head or from where it was stopped, to the first layer."""
    skeleton, layers = network.skeleton, network.skeleton.backbone.layers
    left = gradients.resume()
    if left == len(layers) and not gradients.slope(left).exists():
        norm, head = skeleton.backbone.norm_f, skeleton.lm_head
        network.fill(norm, "backbone.norm_f.")
        tied = skeleton.config.tie_word_embeddings
        table = network.read("backbone.embeddings.weight" if tied else "lm_head.weight")
        head.weight = nn.Parameter(table, requires_grad=False)
        leave = skeleton.backbone.leave if isinstance(skeleton, LM) else norm
        gradients.start(load.Model(name, skeleton, skeleton, (), gradients.device, "transformers"), leave)
        del table
        head.to("meta")
        norm.to("meta")
    done = passes - left * gradients.samples

    def report() -> None:
        nonlocal done
        done += 1
        progress(done, passes, GRADIENTS)

    for layer in reversed(range(left)):
        block = layers[layer]
        network.fill(block, f"backbone.layers.{layer}.")
        gradients.backward(layer, block, Statistics.load(_observed(gradients.work, layer)), collect, report)
        block.to("meta")


def _stage(name: str, block: Any, device: str, read: Read, write: Write) -> load.Model:
    """A network of one layer, whose input is not the tokens it is given but what the layer before left."""

    def backbone(ids: Tensor) -> Tensor:
        hidden: Tensor = block(read().to(device))
        write(hidden)
        return hidden

    return load.Model(name, block, backbone, tuple(mixers(block)), torch.device(device), "transformers")


def _passed(stage: load.Model, tokens: Tokens, calibration: knobs.Calibration) -> tuple[Statistics, Timings]:
    """All samples through a layer without a mixer: no statistics, and what that took."""
    begin = time.perf_counter()
    with deferred() as signal, torch.inference_mode():
        for fold in range(calibration.folds):
            for batch in batches(tokens, fold, calibration):
                stage.backbone(torch.from_numpy(np.stack([tokens.windows[i] for i in batch])))
                signal.check()
    return Statistics({}, {}), Timings(forward_s=time.perf_counter() - begin)


def _resume(work: Path, layers: int) -> int:
    """The layer to go on with: the first that is not observed but whose input is there, else 0."""
    done = next((layer for layer in range(layers) if not _observed(work, layer).exists()), layers)
    if done < layers and not _hidden(work, done).exists():
        done = 0
    if done == 0:
        for file in work.iterdir():
            file.unlink()
    return done


def _observed(work: Path, layer: int) -> Path:
    return work / f"layer-{layer:03}.parquet"


def _hidden(work: Path, layer: int) -> Path:
    """Hidden states of all samples that enter a layer, batch after batch: a line of JSON, then the values."""
    return work / f"hidden-{layer:03}.bin"
