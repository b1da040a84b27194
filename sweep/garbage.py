"""Python's garbage collector, kept out of a job's start.

Importing torch and transformers and loading a network makes a million objects that stay, and the collector goes
through all of them again and again: that is a second of three.
"""

from __future__ import annotations

import gc


def pause() -> None:
    """Look for no garbage from now on."""
    gc.disable()


def resume() -> None:
    """Look for it again, but not among what a process made during its first pause. Later pauses import nothing, and
    what they leave has to be looked through: whatever is frozen while it is garbage stays for good."""
    if not gc.isenabled():
        if not gc.get_freeze_count():
            gc.freeze()
        gc.enable()
