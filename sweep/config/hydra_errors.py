"""Hydra's and OmegaConf's messages, in one line that says what to do."""

from __future__ import annotations

import difflib
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import yaml

from sweep.core.cli import said
from sweep.core.errors import UsageError, allowed

CONF = Path(__file__).resolve().parent.parent / "conf"  # in a checkout a link to conf/ at its top, in a wheel the files


def counted(number: int, noun: str, plural: str = "") -> str:
    """1 cell, 2 cells"""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


GROUPS = ("model", "data", "experiment")
PINNED = {"optuna": "hydra-optuna-sweeper==1.3.0 'sqlalchemy<2'"}
SPELT = {"submitit": "slurm"}  # our name for a launcher
EXTRAS = {"joblib": "cluster", "submitit": "cluster", "ray": "ray"}  # of pyproject.toml, by launcher


def refuse(error: Exception) -> NoReturn:
    """Print the one line and exit with 2."""
    sys.exit(said(one_line(error)))


def one_line(error: Exception) -> str:
    """An error's message, shortened to one line, with the closest key where one was misspelt."""
    if isinstance(error, UsageError):
        return str(error)
    text = re.sub(r"\s+", " ", str(error)).strip()
    text = re.sub(r" (full_key|object_type|reference_type)[:=].*", "", text)
    if plugin := re.search(
        r"hydra_plugins[./]hydra_(\w+?)_(launcher|sweeper)|hydra/launcher/(submitit|joblib|ray)_(?:slurm|schema)", text
    ):
        return _not_installed(plugin[1] or plugin[3], plugin[2] or "launcher")
    if group := re.search(
        r"Could not find '([\w/]+)/([^'/]*)' Available options in '[\w/]+': (.*?) Config search path", text
    ):
        name, wanted = group[1], group[2]
        if name == "hydra/sweeper" and wanted in ("optuna", "nevergrad", "ax"):
            return _not_installed(wanted, "sweeper")
        return str(
            allowed(
                name,
                wanted,
                (one for one in group[3].split(" ") if not one.startswith("_") and not one.endswith("_schema")),
            )
        )
    if unknown := re.search(r"Key '([^']+)' is not in struct|Could not override '([^']+)'", text):
        return unknown_key(unknown[2] or unknown[1])
    if sweep := re.search(r"Sweep parameters '(.*)' requires --multirun", text):
        return f"{sweep[1]} stands for several values: add -m for a grid"
    if "INTERVAL_SWEEP" in text:
        return (
            "interval(…) is a range to search, and a grid needs values: alpha=0.99,0.9995; to search it: "
            "hydra/sweeper=optuna (pip install hydra-optuna-sweeper)"
        )
    if several := re.search(r"Ambiguous value for argument '([^'=]+)=(.*?)' 1\. ", text):
        return f"{several[1]}={several[2]} are several values: add -m for a grid, or write a list as '[{several[2]}]'"
    return text


def unknown_key(key: str) -> str:
    """The message for a knob that does not exist."""
    if key in known_keys():  # what it stands in was replaced
        return f"{key} cannot be set beside {key.rpartition('.')[0]}=…, which is a group of knobs"
    close = difflib.get_close_matches(key, [*known_keys(), *GROUPS], n=1)
    return f"unknown key {key!r}: {f'did you mean {close[0]}?' if close else 'see python -m sweep --help'}"


@cache
def known_keys() -> tuple[str, ...]:
    """All knobs, and the nodes they stand in."""
    knobs = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    del knobs["defaults"]
    for group in ("model", "data"):
        knobs[group] = yaml.safe_load((CONF / group / "_base.yaml").read_text(encoding="utf-8"))
    return tuple(_flatten(knobs))


def options(group: str) -> list[str]:
    """Files of conf/ that can be chosen."""
    return sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml"))


def quoted(override: str, whole: bool = False) -> str:
    """The value of an override as Hydra takes it whatever it consists of; each of several by itself, or the `whole`."""
    value = override.partition("=")[2]
    parts = [value] if whole or re.search(r"[\[\](){}'\"]", value) else value.split(",")
    return ",".join('"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"' for part in parts)


def _not_installed(name: str, kind: str) -> str:
    extra = f" (or 'mamba-scale-sweep[{EXTRAS[name]}]')" if name in EXTRAS else ""
    package = PINNED.get(name, f"hydra-{name}-{kind}")
    return f"hydra/{kind}={SPELT.get(name, name)} is not installed; pip install {package}{extra}"


def _flatten(node: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in node.items():
        name = f"{prefix}{key}"
        keys += [name, *(_flatten(value, f"{name}.") if isinstance(value, dict) else [])]
    return keys
