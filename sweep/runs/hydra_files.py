"""Files that Hydra leaves beside a cell and a sweep: the command lines that started them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

OVERRIDES = ".hydra/overrides.yaml"
MULTIRUN = "multirun.yaml"


def overrides(cell: Path) -> list[str] | None:
    """The overrides that started a cell, an experiment's own among them; None if Hydra's file is not there or torn."""
    words = _yaml(cell / OVERRIDES)
    return [str(word) for word in words] if isinstance(words, list) else None


def sweep_overrides(sweep: Path) -> list[str] | None:
    """The overrides that started a sweep, as they were typed; None as above."""
    words = _yaml(sweep / MULTIRUN)
    for key in ("hydra", "overrides", "task"):
        words = words.get(key) if isinstance(words, dict) else None
    return [str(word) for word in words] if isinstance(words, list) else None


def _yaml(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
