"""What a number needs beside it to be believed: versions, revision, device."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "mamba-ssm", "numpy", "pyarrow", "hydra-core", "wandb")


@cache
def versions() -> dict[str, str]:
    """Of Python, this program and the packages that can move a number; absent ones are left out."""
    from sweep import __version__

    found = {"sweep": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def git() -> dict[str, Any] | None:
    """Revision of the working copy that this program runs from and whether it was changed; None outside one."""

    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"revision": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def device(name: str) -> dict[str, Any]:
    """Kind and name of the processor that computed, and the threads it was given."""
    import torch

    kind = torch.device(name).type
    described = torch.cuda.get_device_name(name) if kind == "cuda" else platform.processor() or platform.machine()
    return {"type": kind, "name": described, "threads": torch.get_num_threads()}
