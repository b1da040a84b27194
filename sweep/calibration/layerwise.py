"""Calibration one layer at a time: weights come from disk layer by layer, hidden states rest on disk between.

Memory depends neither on the depth of the network nor on the number of samples: one layer's weights and one
batch at a time, and before the first layer the table of embeddings. Each layer is an ordinary calibration of a
network of that layer alone, on the same batches, so that the statistics are the same bit for bit.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sweep.calibration.collect import Collect
from sweep.calibration.loop import Progress, Timings, batches, calibrate
from sweep.calibration.tokens import Tokens
from sweep.config import knobs
from sweep.core.errors import UsageError
from sweep.core.signals import deferred
from sweep.models import assemble, load
from sweep.models.mixer import mixers
from sweep.quantization.statistics import Statistics

Read = Callable[[], Tensor]  # the next batch, [batch, seq, d_model]
Write = Callable[[Tensor], None]


def calibrate_streamed(
    model: knobs.Model,
    device: str,
    dtype: str,
    tokens: Tokens,
    calibration: knobs.Calibration,
    progress: Progress,
    work: Path,
    collect: Collect | None = None,
    base: Statistics | None = None,
) -> tuple[Statistics, Timings]:
    """What `calibrate` gives for the loaded model.

    work: a directory of this calibration alone, on a disk with room for the hidden states of all samples twice
    (2 x tokens x d_model x 4 bytes). A run that was stopped goes on at the layer where it was; the directory is
    emptied at the end. Raises UsageError where the network is more than a stack of Mamba blocks."""
    shape = load.settings(model)
    if not load.is_pure(shape):
        raise UsageError(
            f"model.stream=true reads a stack of Mamba blocks (mamba, mamba2); {shape.model_type} is another; "
            "use model.stream=false"
        )
    if calibration.shards > 1:
        raise UsageError(
            f"model.stream=true takes layer after layer; calibration.shards={calibration.shards} must be 1"
        )
    target = getattr(torch, dtype)
    source = load.weights(model, shape)
    skeleton = assemble.skeleton(shape, device)
    work.mkdir(parents=True, exist_ok=True)
    first = _resume(work, shape.num_hidden_layers)
    if first == 0:
        table = source.read("backbone.embeddings.weight", target, device)
        with torch.inference_mode(), _writing(_hidden(work, 0)) as write:
            for fold in range(calibration.folds):
                for batch in batches(tokens, fold, calibration):
                    ids = torch.from_numpy(np.stack([tokens.windows[i] for i in batch])).to(device)
                    write(nn.functional.embedding(ids, table))
        del table
    timings, total = Timings(), len(tokens.windows) - tokens.since
    layers = list(skeleton.backbone.layers)
    for layer in range(first, len(layers)):
        block = layers[layer]
        assemble.fill(block, source, f"backbone.layers.{layer}.".__add__, target, device)

        def report(done: int, _: int, layer: int = layer) -> None:
            progress(layer * total + done, len(layers) * total)

        with _reading(_hidden(work, layer)) as read, _writing(_hidden(work, layer + 1)) as write:
            stage = _stage(model.name, block, device, read, write)
            if stage.mixers:
                before = base and base.of_layer(layer)
                statistics, spent = calibrate(stage, tokens, calibration, report, collect=collect, base=before)
            else:  # attention: nothing to observe
                statistics, spent = _passed(stage, tokens, calibration)
                report(total, total)
        draft = _observed(work, layer).with_suffix(".draft")
        statistics.save(draft)
        draft.rename(_observed(work, layer))
        _hidden(work, layer).unlink()
        block.to("meta")  # frees its weights
        timings.forward_s += spent.forward_s
        timings.observe_s += spent.observe_s
    parts = [part for layer in range(len(layers)) if (part := Statistics.load(_observed(work, layer))).sites]
    shutil.rmtree(work)
    sites = {key: site for part in parts for key, site in part.sites.items()}
    return Statistics(sites, parts[0].meta | {"n_layer": len(parts)}), timings


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


@contextmanager
def _writing(path: Path) -> Iterator[Write]:
    """The file appears under its name only when all is written."""
    draft = path.with_suffix(".draft")
    with draft.open("wb") as stream:

        def write(hidden: Tensor) -> None:
            head = {"dtype": str(hidden.dtype).removeprefix("torch."), "shape": list(hidden.shape)}
            stream.write(json.dumps(head).encode() + b"\n")
            stream.write(hidden.cpu().contiguous().view(torch.uint8).numpy().data)

        yield write
    draft.rename(path)


@contextmanager
def _reading(path: Path) -> Iterator[Read]:
    with path.open("rb") as stream:

        def read() -> Tensor:
            head = json.loads(stream.readline())
            values = torch.empty(head["shape"], dtype=getattr(torch, head["dtype"]))
            stream.readinto(values.view(torch.uint8).numpy().data)
            return values

        yield read
