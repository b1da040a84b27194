"""Directories that nobody else has."""

from __future__ import annotations

from pathlib import Path


def fresh(wanted: Path) -> Path:
    """`wanted`, created by this process and no other; -2, -3, … behind its name if need be."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        directory = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            directory.mkdir()
            return directory
        except FileExistsError:
            number += 1
