"""Progress of all phases of a calibration as one count."""

from __future__ import annotations

from collections.abc import Callable

from sweep.core.progress import SAMPLES


def together(progress: Callable[[int, int], object]) -> Callable[..., None]:
    """A `sweep.core.progress.Progress` that tells `progress` how many passes of all phases are done, and in all."""
    counts: dict[str, tuple[int, int]] = {}

    def told(done: int, total: int, phase: str = SAMPLES) -> None:
        counts[phase] = (done, total)
        progress(sum(n for n, _ in counts.values()), sum(n for _, n in counts.values()))

    return told
