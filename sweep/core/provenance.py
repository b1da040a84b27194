"""Provenance of a number: versions, revision, device."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

NAME = "mamba-scale-sweep"
PACKAGES = ("torch", "transformers", "mamba-ssm", "numpy", "pyarrow", "hydra-core", "wandb")


@cache
def versions() -> dict[str, str]:
    """Versions of Python, this program and the packages that can change a number; absent ones are left out."""
    from sweep import __version__

    versions = {"sweep": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


@cache
def git() -> dict[str, Any] | None:
    """The program's own revision and whether it was changed: of the working copy it runs from, or the one that pip
    installed it from. None where neither is known; never the revision of a repository that it merely lies in."""
    root = Path(__file__).resolve().parents[2]

    def ask(*arguments: str) -> str:
        elsewhere = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # as in a hook
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, env=elsewhere, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        own = Path(ask("rev-parse", "--show-toplevel")).resolve() == root and _ours(root)
        if own and ask("ls-files", "sweep/core/provenance.py"):
            return {"revision": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        pass
    return _installed(root)


def _ours(root: Path) -> bool:
    """True for a working copy of the project itself, not one that the package was copied into."""
    try:
        return f'name = "{NAME}"' in (root / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False


def _installed(root: Path) -> dict[str, Any] | None:
    """The revision that `pip install git+https://…` noted beside the package; None where it noted none."""
    try:
        installed = metadata.distribution(NAME)
        if Path(str(installed.locate_file("sweep"))).resolve() != root / "sweep":
            return None  # another copy than this one
        origin = json.loads(installed.read_text("direct_url.json") or "{}")
        return {"revision": origin["vcs_info"]["commit_id"], "dirty": False}
    except (metadata.PackageNotFoundError, KeyError, ValueError):
        return None


def device(name: str) -> dict[str, Any]:
    """Kind and name of the processor that computed, and the threads it was given."""
    import torch

    kind = torch.device(name).type
    described = torch.cuda.get_device_name(name) if kind == "cuda" else platform.processor() or platform.machine()
    return {"type": kind, "name": described, "threads": torch.get_num_threads()}
