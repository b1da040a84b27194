"""Definitions at the end of a report: its rules, and the methods and formats that its cells have."""

from __future__ import annotations

from collections.abc import Iterator

from sweep.compare.facts import Answer
from sweep.compare.render import sentences
from sweep.quantization.formats import FORMATS
from sweep.quantization.methods.registry import METHODS


def definitions(a: Answer) -> list[tuple[str, str]]:
    """Terms and what they mean, a full stop behind each."""
    return [(term, text.rstrip(".") + ".") for term, text in (*sentences.rules(), *_registered(a))]


def _registered(a: Answer) -> Iterator[tuple[str, str]]:
    """The one line that `--help` says of each method and format; nothing of those of recipes and checkpoints."""
    cells = [a.runs.listed[number] for number in a.shown]
    for name in dict.fromkeys(cell.method for cell in cells):
        if name in METHODS:
            yield f"method={name}", METHODS[name].meaning
    for name in dict.fromkeys(cell.format for cell in cells):
        if name in FORMATS:
            yield f"format={name}", FORMATS[name].meaning
