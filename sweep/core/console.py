"""The console that commands print to: rich's, which also bears a pipe that nobody reads and a width of zero."""

from __future__ import annotations

import os
from typing import Any

import rich.console


class Console(rich.console.Console):
    """Rich's console. A width of zero, which some programs leave in COLUMNS, is ignored; a closed pipe raises."""

    def __init__(self, **options: Any) -> None:
        known = {name: value for name, value in os.environ.items() if (name, value.strip("0")) != ("COLUMNS", "")}
        super().__init__(_environ=known, **options)

    def on_broken_pipe(self) -> None:
        """The command decides what becomes of it: see `sweep.core.cli.run`. rich itself ends the process with 1."""
        raise  # it is being handled
