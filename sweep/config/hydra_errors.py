"""Hydra's and OmegaConf's messages, in one line that says what to do."""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

import yaml

from sweep.core.errors import UsageError, allowed

CONF = Path(__file__).resolve().parent.parent / "conf"  # in a checkout a link to conf/ at its top, in a wheel the files


def counted(number: int, noun: str, plural: str = "") -> str:
    """1 cell, 2 cells"""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def refuse(error: Exception) -> NoReturn:
    """Print the one line and exit with 2."""
    print(f"error: {one_line(error)}", file=sys.stderr)
    sys.exit(2)


def one_line(error: Exception) -> str:
    """An error's message, shortened to one line, with the closest key where one was misspelt."""
    if isinstance(error, UsageError):
        return str(error)
    text = re.sub(r"\s+", " ", str(error)).strip()
    text = re.sub(r" (full_key|object_type|reference_type)[:=].*", "", text)
    if plugin := re.search(r"hydra_plugins[./]hydra_(\w+)_launcher|hydra/launcher/(submitit)_slurm", text):
        name = plugin[1] or plugin[2]
        return f"this launcher is not installed; pip install hydra-{name}-launcher"
    if re.search(r"hydra/sweeper/optuna\b|hydra_plugins[./]hydra_optuna_sweeper", text):
        return "hydra/sweeper=optuna is not installed; pip install hydra-optuna-sweeper==1.3.0 'sqlalchemy<2'"
    if group := re.search(
        r"Could not find '([\w/]+)/([^'/]*)' Available options in '[\w/]+': (.*?) Config search path", text
    ):
        return str(allowed(group[1], group[2], (name for name in group[3].split(" ") if not name.startswith("_"))))
    if unknown := re.search(r"Key '([^']+)' is not in struct|Could not override '([^']+)'", text):
        key = unknown[2] or unknown[1]
        knobs = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
        known = [*_flatten(knobs), "model", "data", "experiment"]
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "see python -m sweep --help"
        return f"unknown key {key!r}: {hint}"
    return text


def _flatten(node: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in node.items():
        name = f"{prefix}{key}"
        keys += [name, *(_flatten(value, f"{name}.") if isinstance(value, dict) else [])]
    return keys
