"""Completion in a shell: names of commands, and after `run` what Hydra completes."""

from __future__ import annotations

import os
import re


def asked(arguments: list[str]) -> bool:
    """Whether it is a shell that asks, by Hydra's own option."""
    return arguments[0] == "-sc" or arguments[0].startswith("--shell-completion")


def of_run() -> bool:
    """Whether the line to complete is one of `run`; that word, which Hydra would take for a knob, is taken out."""
    line = os.environ.get("COMP_LINE", "")
    if not (match := re.match(r"(\s*\S+)\s+run(?=\s)", line)):
        return False
    os.environ["COMP_LINE"] = match[1] + line[match.end() :]
    point = int(os.environ.get("COMP_POINT", len(line)))
    os.environ["COMP_POINT"] = str(max(0, point - (match.end() - match.end(1))))
    return True
