"""Completion in a shell: names of commands, after `run` what Hydra completes, after others paths."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from glob import escape, glob


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


def candidates(arguments: list[str], commands: Iterable[str]) -> str:
    """The words that complete a line which is none of `run`, as the shell that asks takes them: the commands for the
    first word. Of others bash and zsh complete paths themselves; fish is told them."""
    fish = any("fish" in argument for argument in arguments)
    *before, word = re.split(r"\s+", os.environ.get("COMP_LINE", "").lstrip())
    if len(before) < 2:
        return ("\n" if fish else " ").join(commands)
    paths = glob(f"{escape(word)}*") if fish and not word.startswith("-") else []
    return "\n".join(f"{path}/" if os.path.isdir(path) else path for path in sorted(paths))
