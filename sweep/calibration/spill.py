"""Tensors on disk, one after the other, read in the order they were written in.

Not safetensors: a file of that format begins with the offsets of all tensors, while these come and go batch by batch.
It would take a file for each batch, and code that names, finishes and resumes many."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

Read = Callable[[], Tensor]  # the next one
Write = Callable[[Tensor], None]


@contextmanager
def writing(path: Path) -> Iterator[Write]:
    """Writes tensors one after the other: a line of JSON, then the values. The file gets its name when all is
    written."""
    draft = path.with_suffix(".draft")
    with draft.open("wb") as stream:

        def write(values: Tensor) -> None:
            head = {"dtype": str(values.dtype).removeprefix("torch."), "shape": list(values.shape)}
            stream.write(json.dumps(head).encode() + b"\n")
            stream.write(values.cpu().contiguous().view(torch.uint8).numpy().data)

        yield write
    draft.rename(path)


@contextmanager
def reading(path: Path) -> Iterator[Read]:
    """Gives the tensors that `writing` wrote, in that order."""
    with path.open("rb") as stream:

        def read() -> Tensor:
            head = json.loads(stream.readline())
            values = torch.empty(head["shape"], dtype=getattr(torch, head["dtype"]))
            stream.readinto(values.view(torch.uint8).numpy().data)
            return values

        yield read
