"""`~` and `$VARIABLE` in the paths of a configuration, which no shell expands where they are quoted or in a file."""

from __future__ import annotations

import os
import re

from sweep.core.errors import UsageError


def expanded(knob: str, path: str) -> str:
    """The path with the user's home and the environment's variables put in. Raises UsageError for one that is not set,
    unless a file of just that name exists."""
    full = os.path.expanduser(os.path.expandvars(path))
    if os.path.lexists(full):
        return full
    if unset := re.search(r"\$(\w+|\{[^}]*\})", full):
        raise UsageError(f"{knob}={path}: the environment has no variable {unset[1].strip('{}')}")
    if full.startswith("~"):
        raise UsageError(f"{knob}={path}: there is no user {full[1:].partition('/')[0] or 'with a home'}")
    return full
